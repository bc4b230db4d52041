-- A wrong budget that may block stops what it would cover, since nobody could say any more what may be spent; so does
-- one whose spending cannot be counted.
create or replace macro __problems_of_budgets() as table
with
rows as (
    select
        *,
        __budget_name(name, scope, context_key, principal, endpoint, "window") as budget,
        if(
            action = 'alert',
            [],
            coalesce((select list(e.name order by e.name) from endpoints as e where b.endpoint is null or e.name = b.endpoint), [])
        ) as stopped
    from budgets as b
    where enabled
),
breaches as (
    select
        b.budget,
        b.endpoint,
        b.stopped,
        unnest([
            __rule(
                'amount_usd',
                not (b.amount_usd > 0 and b.amount_usd < 'inf'),
                'the budget "' || b.budget || '" has the amount ' || printf('%g', b.amount_usd) || ', not a number of US dollars above 0',
                'set the column amount_usd to a number above 0, or delete the row'
            ),
            __rule(
                'scope',
                b.scope not in ('global', 'endpoint', 'user', 'group', 'context'),
                'the budget "' || b.budget || '" has the scope "' || b.scope || '", which does not exist',
                'change the column scope to one of: global, endpoint, user, group, context'
            ),
            __rule(
                'window',
                b."window" not in ('day', 'week', 'month'),
                'the budget "' || b.budget || '" has the window "' || b."window" || '", which does not exist',
                'change the column window to one of: day, week, month'
            ),
            __rule(
                'action',
                b.action not in ('alert', 'block'),
                'the budget "' || b.budget || '" has the action "' || b.action || '", which does not exist',
                'change the column action to one of: alert, block'
            ),
            __rule(
                'time_zone',
                not __is_time_zone(b.time_zone),
                'the budget "' || b.budget || '" has the time_zone "' || b.time_zone || '", which does not exist',
                'change the column time_zone to an IANA name such as Europe/Berlin, or to UTC'
            ),
            __rule(
                'endpoint',
                b.scope = 'endpoint' and b.endpoint is null,
                'the budget "' || b.budget || '" has the scope endpoint and no endpoint',
                'set the column endpoint to a name in fleming.endpoints'
            ),
            __rule(
                'endpoint',
                b.endpoint is not null and e.name is null,
                'the budget "' || b.budget || '" names the endpoint "' || b.endpoint || '", which does not exist',
                'insert it into fleming.endpoints or change the column endpoint'
            ),
            __rule(
                'principal',
                b.scope = 'group' and b.principal is null,
                'the budget "' || b.budget || '" has the scope group and no principal',
                'set the column principal to the name of a group in fleming.principals'
            ),
            __rule(
                'principal',
                b.scope in ('global', 'endpoint') and b.principal is not null,
                'the budget "' || b.budget || '" has the scope ' || b.scope || ', which counts everybody''s calls together, and the principal "'
                    || b.principal || '"',
                'set the column principal to NULL, or the column scope to one of: user, group, context'
            ),
            __rule(
                'principal',
                b.scope in ('user', 'group') and b.principal is not null and p.name is null,
                'the budget "' || b.budget || '" names the principal "' || b.principal || '", which does not exist',
                'insert it into fleming.principals or change the column principal'
            ),
            -- a type that does not exist is a problem of the other row
            __rule(
                'principal',
                p.type in ('user', 'service_principal', 'group') and (p.type = 'group') <> (b.scope = 'group')
                    and b.scope in ('user', 'group'),
                'the budget "' || b.budget || '" has the scope ' || b.scope || ', and "' || b.principal || '" is of type ' || p.type
                    || ' in principals',
                'change the column principal, or the column scope to ' || if(p.type = 'group', 'group', 'user')
            ),
            __rule(
                'context_key',
                b.scope = 'context' and coalesce(b.context_key, '') = '',
                'the budget "' || b.budget || '" has the scope context and no context_key',
                'set the column context_key to a key of usageContext'
            ),
            __rule(
                'context_key',
                b.scope <> 'context' and b.context_key is not null,
                'the budget "' || b.budget || '" has a context_key, which the scope ' || b.scope || ' does not go by',
                'set the column context_key to NULL, or the column scope to context'
            ),
            -- The address may hold a key, so it is not repeated.
            __rule(
                'webhook',
                not regexp_full_match(b.webhook, 'https?://[^\s/]\S*|\{\{secrets/.+\}\}'),
                'the webhook of the budget "' || b.budget || '" is neither an http or https URL nor a secret',
                'set the column webhook to a URL such as https://example.com/hook, to {{secrets/scope/key}}, or to NULL'
            )
        ]) as rule
    from rows as b
    left join endpoints as e on e.name = b.endpoint
    left join principals as p on p.name = b.principal
),
unpriced as (
    select s.endpoint, s.row_key, s.problem, s.remedy
    from __problems_of_unknown_prices() as s
)
select
    'budgets' as table_name,
    budget as row_key,
    rule.column_name as column_name,
    rule.problem as problem,
    rule.remedy as remedy,
    endpoint,
    if(rule.column_name = 'webhook', [], stopped) as stops
from breaches
where rule.wrong
union all
select
    'budgets',
    budget,
    'name',
    count(*) || ' budgets have the name "' || budget || '"',
    'give each of them a name of its own in the column name, or delete all but one',
    null,
    list_sort(list_distinct(flatten(list(stopped))))
from rows
group by budget
having count(*) > 1
union all
select
    'budgets',
    b.budget,
    null,
    'the budget "' || b.budget || '" cannot count what calls cost: ' || u.problem,
    u.remedy || '; or change the column action of the budget to alert',
    u.endpoint,
    [u.endpoint]
from rows as b
inner join unpriced as u on list_contains(b.stopped, u.endpoint);
