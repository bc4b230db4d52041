-- one row is one guardrail at one endpoint on one day
create or replace view serving.guardrail_hits as
with
decisions as (
    select
        request_time::date as day,
        endpoint_name,
        phase,
        guardrail,
        kind,
        action,
        from_json(entities, '[{"type": "VARCHAR", "count": "BIGINT"}]') as entities,
        duration_ms
    from serving.guardrail_results
),
figures as (
    select
        day,
        endpoint_name,
        phase,
        guardrail,
        kind,
        count(*) as decisions,
        count(*) filter (where action = 'block') as blocked,
        count(*) filter (where action = 'mask') as masked,
        count(*) filter (where action = 'log') as logged,
        count(*) filter (where action = 'none') as passed,
        count(*) filter (where action = 'allow') as failed_open,
        quantile_cont(duration_ms, [0.5, 0.95]) as duration_ms
    from decisions
    group by all
),
entities as (
    select
        day,
        endpoint_name,
        phase,
        guardrail,
        kind,
        unnest(entities) as entity
    from decisions
),
counts as (
    select
        day,
        endpoint_name,
        phase,
        guardrail,
        kind,
        entity.type as type,
        sum(entity.count)::bigint as number
    from entities
    where entity.count is not null  -- categories of harm have a score instead
    group by all
),
found as (
    select
        day,
        endpoint_name,
        phase,
        guardrail,
        kind,
        map_from_entries(list({'key': type, 'value': number} order by type)) as found
    from counts
    group by all
)
select
    day,
    endpoint_name,
    phase,
    guardrail,
    kind,
    w.decisions,
    w.blocked,
    w.masked,
    w.logged,
    w.passed,
    w.failed_open,
    coalesce(f.found, map {}::map(varchar, bigint)) as found,
    w.duration_ms[1] as p50_duration_ms,
    w.duration_ms[2] as p95_duration_ms
from figures as w
left join found as f using (day, endpoint_name, phase, guardrail, kind)
order by day, endpoint_name, phase, guardrail, kind;

comment on view serving.guardrail_hits is 'One row is one guardrail at one endpoint on one day, UTC: what it decided, what it found and how long it took';
comment on column serving.guardrail_hits.day is 'Of request_time, UTC';
comment on column serving.guardrail_hits.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.guardrail_hits.phase is 'input: it looked at requests; output: at answers';
comment on column serving.guardrail_hits.guardrail is 'Name of the guardrail';
comment on column serving.guardrail_hits.kind is 'How it decides';
comment on column serving.guardrail_hits.decisions is 'How often it looked; the sum of the next five';
comment on column serving.guardrail_hits.blocked is 'It refused the call, because of what it found or because it failed';
comment on column serving.guardrail_hits.masked is 'It took what it found out of the text';
comment on column serving.guardrail_hits.logged is 'It only wrote down what it found, or that it failed';
comment on column serving.guardrail_hits.passed is 'It found nothing';
comment on column serving.guardrail_hits.failed_open is 'It failed, and let the call pass';
comment on column serving.guardrail_hits.found is 'How many of each type of entity; categories of harm, which are not counted, are not in it';
comment on column serving.guardrail_hits.p50_duration_ms is 'Half of its decisions took no longer';
comment on column serving.guardrail_hits.p95_duration_ms is '95 % took no longer';
