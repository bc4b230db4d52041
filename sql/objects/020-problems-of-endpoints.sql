-- What may be wrong with the rows of each config table: a table macro per table, in files of their own. All return the
-- columns of config_problems and `stops`, the endpoints whose calls would meet the row. 029-problems.sql puts them
-- together.

-- one thing that may be wrong with one row; a condition that is NULL does not count
create or replace macro __rule(column_name, wrong, problem, remedy) as {
    'column_name': column_name,
    'wrong': wrong,
    'problem': problem,
    'remedy': remedy
};

create or replace macro __problems_of_endpoints() as table
with
breaches as (
    select
        e.name as endpoint,
        unnest([
            __rule(
                'default_parameters',
                json_type(e.default_parameters) <> 'OBJECT',
                'the default_parameters of endpoint "' || e.name || '" are JSON of type ' || json_type(e.default_parameters),
                'change the column default_parameters to a JSON object such as {"temperature": 0}'
            ),
            __rule(
                'routing',
                e.routing not in ('weighted', 'sticky', 'priority', 'least_latency', 'least_cost'),
                'endpoint "' || e.name || '" has the routing "' || e.routing || '", which does not exist',
                'change the column routing to one of: weighted, sticky, priority, least_latency, least_cost'
            ),
            __rule(
                'sticky_key',
                e.sticky_key = '',
                'the sticky_key of endpoint "' || e.name || '" is empty',
                'set the column sticky_key to a key of usageContext, or to NULL for the requester'
            ),
            __rule(
                'fallback_on',
                len(list_filter(e.fallback_on, lambda r: r is null or r not in ('context_window', 'content_policy'))) > 0,
                'the fallback_on of endpoint "' || e.name || '" holds unknown refusals: '
                    || array_to_string(
                        list_transform(
                            list_filter(e.fallback_on, lambda r: r is null or r not in ('context_window', 'content_policy')),
                            lambda r: coalesce('"' || r || '"', 'NULL')
                        ),
                        ', '
                    ),
                'change the column fallback_on to a list of any of: context_window, content_policy; or to []'
            ),
            __rule(
                'attempt_timeout_ms',
                e.attempt_timeout_ms <= 0,
                'the attempt_timeout_ms of endpoint "' || e.name || '" is ' || e.attempt_timeout_ms || ', not above 0',
                'set the column attempt_timeout_ms to 1 or more, or to NULL to share what is left of timeout_ms'
            ),
            __rule(
                'hedge_after_ms',
                e.hedge_after_ms <= 0,
                'the hedge_after_ms of endpoint "' || e.name || '" is ' || e.hedge_after_ms || ', not above 0',
                'set the column hedge_after_ms to 1 or more, or to NULL to switch it off'
            ),
            __rule(
                'hedge_percentile',
                e.hedge_percentile not between 50 and 99.9,
                'the hedge_percentile of endpoint "' || e.name || '" is ' || printf('%g', e.hedge_percentile)
                    || ', not between 50 and 99.9',
                'set the column hedge_percentile to a number from 50 to 99.9, or to NULL to switch it off'
            ),
            __rule(
                'hedge_after_ms',
                e.hedge_after_ms is not null and e.hedge_percentile is not null,
                'endpoint "' || e.name || '" has both hedge_after_ms and hedge_percentile',
                'set one of the columns hedge_after_ms and hedge_percentile to NULL'
            ),
            __rule(
                'breaker_failure_share',
                -- NaN is greater than every number
                not (e.breaker_failure_share > 0 and e.breaker_failure_share <= 1),
                'the breaker_failure_share of endpoint "' || e.name || '" is ' || printf('%g', e.breaker_failure_share)
                    || ', not above 0 and up to 1',
                'set the column breaker_failure_share to a number above 0 and up to 1, such as 0.5'
            ),
            __rule(
                'breaker_min_calls',
                e.breaker_min_calls <= 0,
                'the breaker_min_calls of endpoint "' || e.name || '" is ' || e.breaker_min_calls || ', not above 0',
                'set the column breaker_min_calls to 1 or more, such as 20'
            ),
            __rule(
                'breaker_window_ms',
                e.breaker_window_ms <= 0,
                'the breaker_window_ms of endpoint "' || e.name || '" is ' || e.breaker_window_ms || ', not above 0',
                'set the column breaker_window_ms to 1 or more, such as 10000'
            ),
            __rule(
                'breaker_open_ms',
                e.breaker_open_ms <= 0,
                'the breaker_open_ms of endpoint "' || e.name || '" is ' || e.breaker_open_ms || ', not above 0',
                'set the column breaker_open_ms to 1 or more, such as 5000'
            )
        ]) as rule
    from endpoints as e
),
problems as (
    select
        endpoint,
        rule.column_name as column_name,
        rule.problem as problem,
        rule.remedy as remedy
    from breaches
    where rule.wrong
    union all
    select
        e.name,
        null,
        'endpoint "' || e.name || '" has no served entity',
        'insert a row into fleming.served_entities with endpoint = ''' || e.name || ''''
    from endpoints as e
    where not exists (from served_entities as s where s.endpoint = e.name)
    union all
    select
        s.endpoint,
        null,
        'all served entities of endpoint "' || s.endpoint || '" are switched off',
        'set the column enabled of a row of fleming.served_entities with endpoint = ''' || s.endpoint || ''' to true'
    from served_entities as s
    where s.endpoint in (select name from endpoints)
    group by s.endpoint
    having not bool_or(s.enabled)
)
select
    'endpoints' as table_name,
    endpoint as row_key,
    column_name,
    problem,
    remedy,
    endpoint,
    [endpoint] as stops
from problems;
