-- What the gateway knows at this moment. These views ask the gateway that has the store open, so they answer only
-- through a connection to it.

-- one row is one served entity: whether it is asked, how much at once, how fast it is
create or replace view serving.entity_health as
with live as (
    select unnest(
        from_json(
            __fleming_live('entity_health'),
            '[{
                "endpoint_name": "VARCHAR", "served_entity_name": "VARCHAR", "state": "VARCHAR",
                "recent_calls": "BIGINT", "failure_share": "DOUBLE", "probe_in_ms": "DOUBLE",
                "last_error_code": "VARCHAR", "last_error_message": "VARCHAR", "last_error_time": "TIMESTAMP",
                "credential_refused": "BOOLEAN", "concurrency_limit": "BIGINT", "in_flight": "BIGINT",
                "waiting": "BIGINT", "latency_ms": "DOUBLE"
            }]'
        ),
        recursive := true
    )
)
select
    e.endpoint as endpoint_name,
    e.name as served_entity_name,
    if(e.enabled, coalesce(l.state, 'closed'), 'disabled') as state,
    coalesce(l.recent_calls, 0) as recent_calls,
    coalesce(l.failure_share, 0) as failure_share,
    l.probe_in_ms,
    l.last_error_code,
    l.last_error_message,
    l.last_error_time,
    coalesce(l.credential_refused, false) as credential_refused,
    l.concurrency_limit,
    coalesce(l.in_flight, 0) as in_flight,
    coalesce(l.waiting, 0) as waiting,
    l.latency_ms
from main.served_entities as e
left join live as l on l.endpoint_name = e.endpoint and l.served_entity_name = e.name
order by e.endpoint, e.position, e.name;

comment on view serving.entity_health is 'One row is one served entity as the gateway sees it now: whether its circuit breaker leaves it out and why, how many requests it gets at once, how fast it answers. It begins anew with the process';
comment on column serving.entity_health.endpoint_name is 'Its endpoint';
comment on column serving.entity_health.served_entity_name is 'Its name';
comment on column serving.entity_health.state is 'closed: it is asked; open: it is left out where another can be asked; half_open: one call tries it again; disabled: its row is switched off';
comment on column serving.entity_health.recent_calls is 'Answers and failures within endpoints.breaker_window_ms';
comment on column serving.entity_health.failure_share is 'Share of failures among them; a refusal with 429 is one only where nothing else was under way';
comment on column serving.entity_health.probe_in_ms is 'When a call will try an entity that is left out; NULL where it is not';
comment on column serving.entity_health.last_error_code is 'Code of its latest failure; SLOW where it took ten times as long as another entity';
comment on column serving.entity_health.last_error_message is 'What it said; NULL where endpoints.payload_logging is off';
comment on column serving.entity_health.last_error_time is 'When, UTC';
comment on column serving.entity_health.credential_refused is 'Whether a key that it uses was refused with 401, 402 or 403 within the last 30 s';
comment on column serving.entity_health.concurrency_limit is 'Requests that it gets at once; NULL before its first';
comment on column serving.entity_health.in_flight is 'Requests under way';
comment on column serving.entity_health.waiting is 'Calls that wait for a place at it';
comment on column serving.entity_health.latency_ms is 'Typical time of its latest answers; NULL without any in the last 30 s';

-- one row is one counter of a rate limit that calls have met
create or replace view serving.rate_limit_usage as
with live as (
    select unnest(
        from_json(
            __fleming_live('rate_limit_usage'),
            '[{
                "endpoint_name": "VARCHAR", "key": "VARCHAR", "principal": "VARCHAR", "metric": "VARCHAR",
                "renewal_period": "VARCHAR", "amount": "BIGINT", "used": "BIGINT"
            }]'
        ),
        recursive := true
    )
)
select
    endpoint_name,
    key,
    principal,
    metric,
    renewal_period,
    amount,
    used,
    greatest(amount - used, 0) as remaining
from live as l
where exists (
    from main.rate_limits as r
    where r.endpoint = l.endpoint_name
        and r.key = l.key
        and r.renewal_period = l.renewal_period
        and (r.principal is null or r.principal = l.principal)
        and if(l.metric = 'calls', r.calls, r.tokens) is not null
)
order by endpoint_name, key, principal nulls first, metric, renewal_period;

comment on view serving.rate_limit_usage is 'One row is one counter of a rate limit that calls have met: how much of it the last minute or hour has used';
comment on column serving.rate_limit_usage.endpoint_name is 'Endpoint of the limit';
comment on column serving.rate_limit_usage.key is 'As in rate_limits';
comment on column serving.rate_limit_usage.principal is 'Whose use is counted; NULL for everybody''s together';
comment on column serving.rate_limit_usage.metric is 'calls or tokens';
comment on column serving.rate_limit_usage.renewal_period is 'minute or hour';
comment on column serving.rate_limit_usage.amount is 'The limit';
comment on column serving.rate_limit_usage.used is 'Admitted within the period that ends now; tokens of calls under way are estimates. More than amount where somebody is in several groups, since each counts';
comment on column serving.rate_limit_usage.remaining is 'What is left of it now';

-- one row is one vector of a running statement
create or replace view serving.progress as
with live as (
    select unnest(
        from_json(
            __fleming_live('progress'),
            '[{
                "statement_id": "VARCHAR", "requester": "VARCHAR", "start_time": "TIMESTAMP", "calls_done": "BIGINT",
                "calls_failed": "BIGINT", "calls_left": "BIGINT", "waiting_for_place": "BIGINT", "waiting_for_limit": "BIGINT",
                "limit_reached": "VARCHAR", "next_call_in_ms": "DOUBLE"
            }]'
        ),
        recursive := true
    )
)
select
    statement_id,
    requester,
    start_time,
    calls_done,
    calls_failed,
    calls_left,
    waiting_for_place,
    waiting_for_limit,
    limit_reached,
    next_call_in_ms
from live
order by start_time, statement_id;

comment on view serving.progress is 'One row is one vector of rows, up to 2,048, that a running statement has handed to the gateway: what is done, and what it waits for. Ask from another cursor than the one that runs';
comment on column serving.progress.statement_id is 'As in inference';
comment on column serving.progress.requester is 'On whose behalf';
comment on column serving.progress.start_time is 'When its first rows came, UTC';
comment on column serving.progress.calls_done is 'Calls of the statement that have ended';
comment on column serving.progress.calls_failed is 'Of these, failed';
comment on column serving.progress.calls_left is 'Rows of this vector without an answer yet; a statement may have more vectors to come';
comment on column serving.progress.waiting_for_place is 'Calls that wait until the endpoint (max_concurrency) or a served entity (entity_health.concurrency_limit) takes more';
comment on column serving.progress.waiting_for_limit is 'Calls that wait for a rate limit';
comment on column serving.progress.limit_reached is 'Which one';
comment on column serving.progress.next_call_in_ms is 'When the next of them goes';
