create or replace macro __problems_of_rate_limits() as table
with
limits as (
    select
        *,
        case
            when calls is not null and tokens is not null then 'calls+tokens'
            when calls is not null then 'calls'
            when tokens is not null then 'tokens'
            else '-'
        end as metric,
        endpoint || '/' || key || '/' || coalesce(principal, '-') || '/' || metric || '/' || renewal_period as row_key,
        case key when 'user' then 'user' when 'user_group' then 'group' when 'service_principal' then 'service_principal' end
            as principal_type
    from rate_limits
),
breaches as (
    select
        r.endpoint as endpoint,
        r.row_key,
        unnest([
            __rule(
                'endpoint',
                e.name is null,
                'a rate limit names the endpoint "' || r.endpoint || '", which does not exist',
                'insert it into fleming.endpoints or change the column endpoint'
            ),
            __rule(
                'key',
                r.key not in ('endpoint', 'user', 'user_group', 'service_principal'),
                'a rate limit of endpoint "' || r.endpoint || '" has the key "' || r.key || '", which does not exist',
                'change the column key to one of: endpoint, user, user_group, service_principal'
            ),
            __rule(
                'principal',
                r.key = 'endpoint' and r.principal is not null,
                'a rate limit of endpoint "' || r.endpoint || '" has the key endpoint, which counts everybody''s calls together, and the principal "' || r.principal || '"',
                'set the column principal to NULL, or the column key to one of: user, user_group, service_principal'
            ),
            __rule(
                'principal',
                r.key in ('user_group', 'service_principal') and r.principal is null,
                'a rate limit of endpoint "' || r.endpoint || '" has the key ' || r.key || ' and no principal',
                'set the column principal to a name in fleming.principals of type ' || r.principal_type
            ),
            __rule(
                'principal',
                r.key <> 'endpoint' and r.principal is not null and p.name is null,
                'a rate limit of endpoint "' || r.endpoint || '" names the principal "' || r.principal || '", which does not exist',
                'insert it into fleming.principals or change the column principal'
            ),
            -- a type that does not exist is a problem of the other row
            __rule(
                'principal',
                p.type in ('user', 'service_principal', 'group') and p.type <> r.principal_type,
                'a rate limit of endpoint "' || r.endpoint || '" has the key ' || r.key || ', and "' || r.principal || '" is of type ' || p.type || ' in principals',
                'change the column principal to one of type ' || r.principal_type || ', or the column key to '
                    || replace(p.type, 'group', 'user_group')
            ),
            __rule(
                'calls',
                r.calls <= 0,
                'a rate limit of endpoint "' || r.endpoint || '" allows ' || r.calls || ' calls, which is not above 0',
                'set the column calls to 1 or more'
            ),
            __rule(
                'tokens',
                r.tokens <= 0,
                'a rate limit of endpoint "' || r.endpoint || '" allows ' || r.tokens || ' tokens, which is not above 0',
                'set the column tokens to 1 or more'
            ),
            __rule(
                'calls',
                r.metric = 'calls+tokens',
                'a rate limit of endpoint "' || r.endpoint || '" has both calls and tokens',
                'set one of the columns calls and tokens to NULL, and insert a second row for it'
            ),
            __rule(
                'calls',
                r.metric = '-',
                'a rate limit of endpoint "' || r.endpoint || '" has neither calls nor tokens',
                'set one of the columns calls and tokens to 1 or more'
            ),
            __rule(
                'renewal_period',
                r.renewal_period not in ('minute', 'hour'),
                'a rate limit of endpoint "' || r.endpoint || '" has the renewal_period "' || r.renewal_period || '", which does not exist',
                'change the column renewal_period to one of: minute, hour'
            ),
            __rule(
                'on_exceeded',
                r.on_exceeded not in ('wait', 'reject'),
                'a rate limit of endpoint "' || r.endpoint || '" has "' || r.on_exceeded || '" as on_exceeded, which does not exist',
                'change the column on_exceeded to one of: wait, reject'
            ),
            __rule(
                'max_wait_ms',
                r.max_wait_ms < 0,
                'a rate limit of endpoint "' || r.endpoint || '" has the max_wait_ms ' || r.max_wait_ms || ', which is below 0',
                'set the column max_wait_ms to 0 or more, or to NULL for as long as it takes'
            )
        ]) as rule
    from limits as r
    left join endpoints as e on e.name = r.endpoint
    left join principals as p on p.name = r.principal
),
problems as (
    select
        endpoint,
        row_key,
        rule.column_name as column_name,
        rule.problem as problem,
        rule.remedy as remedy
    from breaches
    where rule.wrong
    union all
    select
        endpoint,
        row_key,
        null,
        'endpoint "' || endpoint || '" has ' || count(*) || ' rate limits for the same key, principal, ' || metric || ' and period',
        'delete all but one of the rows from fleming.rate_limits'
    from limits
    where metric in ('calls', 'tokens')
    group by endpoint, key, principal, metric, renewal_period, row_key
    having count(*) > 1
    union all
    select
        endpoint,
        endpoint,
        'endpoint',
        'endpoint "' || endpoint || '" has ' || count(*) || ' rate limits, more than 20',
        'delete rows of the endpoint from fleming.rate_limits until 20 or fewer are left'
    from limits
    group by endpoint
    having count(*) > 20
    union all
    select
        endpoint,
        endpoint,
        'key',
        'endpoint "' || endpoint || '" has ' || count(*) || ' rate limits with the key user_group, more than 5',
        'delete such rows of the endpoint from fleming.rate_limits until 5 or fewer are left'
    from limits
    where key = 'user_group'
    group by endpoint
    having count(*) > 5
)
select
    'rate_limits' as table_name,
    row_key,
    column_name,
    problem,
    remedy,
    endpoint,
    [endpoint] as stops
from problems;
