-- A wrong guardrail stops what it would look at, one that only writes down too: nobody could say what goes unseen. One
-- that is switched off is not looked at. macros: those of the store, as a JSON array.
create or replace macro __problems_of_guardrails(macros) as table
with
surroundings as materialized (
    select
        to_json({
            'pii_entities': coalesce(
                (
                    select
                        list({
                            'name': name,
                            'pattern': pattern,
                            'validator': validator,
                            'context_words': context_words
                        })
                    from pii_entities
                    where enabled
                ),
                []
            ),
            'macros': macros::json
        })::varchar as known
),
rows as (
    select
        g.endpoint,
        g.phase,
        g.kind,
        g.behavior,
        g.on_error,
        g.timeout_ms,
        g.config,
        __guardrail_name(g.name, g.phase, g.kind, g.rank) as guardrail,
        coalesce(g.name, '') <> '' as is_named,
        coalesce(g.endpoint, '*') || '/' || guardrail as row_key,
        'the guardrail "' || guardrail || '" of ' || coalesce('endpoint "' || g.endpoint || '"', 'all endpoints') as subject,
        coalesce(
            (select list(e.name order by e.name) from endpoints as e where g.endpoint is null or e.name = g.endpoint),
            []
        ) as stopped,
        k.kind is not null as is_known,
        coalesce(k.phases, ['input', 'output']) as phases,
        coalesce(k.behaviors, ['block', 'mask', 'log']) as behaviors,
        coalesce(k.asks_tasks, []) as asks_tasks,
        if(json_type(g.config, '$.endpoint') = 'VARCHAR', g.config ->> '$.endpoint', null) as asked
    from guardrails as g
    left join guardrail_kinds as k on k.kind = g.kind
    where g.enabled and g.behavior <> 'none'
),
checked as materialized (
    select
        r.*,
        case
            when r.is_known and list_contains(r.behaviors, r.behavior) then __fleming_config_check(
                'guardrail',
                to_json({'kind': r.kind, 'behavior': r.behavior, 'config': r.config::varchar})::varchar,
                s.known
            )
        end as found
    from rows as r
    cross join surroundings as s
),
breaches as (
    select
        r.endpoint,
        r.row_key,
        r.stopped,
        unnest([
            __rule(
                'endpoint',
                r.endpoint is not null and len(r.stopped) = 0,
                r.subject || ' names an endpoint that does not exist',
                'insert it into fleming.endpoints, change the column endpoint, or set it to NULL for all endpoints'
            ),
            __rule(
                'kind',
                not r.is_known,
                r.subject || ' has the kind "' || r.kind || '", which does not exist',
                'change the column kind to one of: ' || (select string_agg(kind, ', ' order by kind) from guardrail_kinds)
            ),
            __rule(
                'phase',
                not list_contains(r.phases, r.phase),
                r.subject || ' has the phase "' || r.phase || '", which '
                    || if(r.phase in ('input', 'output'), 'the kind ' || r.kind || ' does not look at', 'does not exist'),
                'change the column phase to one of: ' || array_to_string(r.phases, ', ')
            ),
            __rule(
                'behavior',
                not list_contains(r.behaviors, r.behavior),
                r.subject || ' has the behavior "' || r.behavior || '", which '
                    || if(r.behavior in ('block', 'mask', 'log'), 'the kind ' || r.kind || ' does not have', 'does not exist'),
                'change the column behavior to one of: ' || array_to_string(r.behaviors, ', ') || ', none'
            ),
            __rule(
                'on_error',
                r.on_error not in ('block', 'allow'),
                r.subject || ' has "' || r.on_error || '" as on_error, which does not exist',
                'change the column on_error to one of: block, allow; or to NULL for what endpoints.guardrails_fail_open says'
            ),
            __rule(
                'timeout_ms',
                r.timeout_ms <= 0,
                r.subject || ' has the timeout_ms ' || r.timeout_ms || ', which is not above 0',
                'set the column timeout_ms to 1 or more, such as 30000'
            ),
            __rule(
                'config',
                len(r.asks_tasks) > 0 and r.asked is not null and e.name is null,
                r.subject || ' asks the endpoint "' || r.asked || '", which does not exist',
                'insert it into fleming.endpoints, or change endpoint in the column config'
            ),
            __rule(
                'config',
                len(r.asks_tasks) > 0 and not list_contains(r.asks_tasks, e.task),
                r.subject || ' asks the endpoint "' || r.asked || '", which is for the task ' || e.task,
                'change endpoint in the column config to one for: ' || array_to_string(r.asks_tasks, ', ')
            ),
            __rule(
                'config',
                r.found is not null,
                r.subject || ': ' || (r.found ->> '$.problem'),
                r.found ->> '$.remedy'
            )
        ]) as rule
    from checked as r
    left join endpoints as e on e.name = r.asked
),
-- one row is all guardrails that were given one name, in one phase, for one endpoint or for all
named as (
    select
        endpoint,
        phase,
        guardrail,
        any_value(row_key) as row_key,
        any_value(stopped) as stopped,
        count(*) as rows
    from rows
    where is_named
    group by endpoint, phase, guardrail
)
select
    'guardrails' as table_name,
    row_key,
    rule.column_name as column_name,
    rule.problem as problem,
    rule.remedy as remedy,
    endpoint,
    stopped as stops
from breaches
where rule.wrong
union all
select
    'guardrails',
    n.row_key,
    'name',
    coalesce('endpoint "' || n.endpoint || '" has ', 'all endpoints have ') || n.rows + coalesce(a.rows, 0)
        || ' guardrails called "' || n.guardrail || '" in the phase ' || n.phase
        || if(a.rows is null, '', ', those of all endpoints included'),
    'give each of them a name of its own in the column name, or delete all but one',
    n.endpoint,
    n.stopped
from named as n
left join named as a
    on a.endpoint is null and n.endpoint is not null and a.phase = n.phase and a.guardrail = n.guardrail
where n.rows + coalesce(a.rows, 0) > 1;
