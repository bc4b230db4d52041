-- one row is one version of a served entity: what it was asked and how it did
create or replace view serving.entity_comparison as
with
requests as (
    select
        served_entity_id,
        count(*) as requests,
        count(*) filter (where error_code <> 'CANCELLED') as request_errors,
        count(*) filter (where reason = 'fallback') as fallback_requests,
        quantile_cont(duration_ms, 0.5) filter (where error_code is null) as p50_latency_ms,
        quantile_cont(duration_ms, 0.95) filter (where error_code is null) as p95_latency_ms
    from serving.attempts
    group by served_entity_id
),
calls as (
    select
        served_entity_id,
        count(*) as calls,
        count(*) filter (where status_code <> 200) as failed_calls,
        sum(input_token_count)::bigint as input_tokens,
        sum(output_token_count)::bigint as output_tokens,
        if(count(cost_usd) = count(*), sum(cost_usd), null) as cost_usd,
        min(request_time) as first_call_time,
        max(request_time) as last_call_time
    from serving.endpoint_usage
    where served_entity_id is not null and not cache_hit
    group by served_entity_id
)
select
    e.endpoint_name,
    e.served_entity_name,
    e.endpoint_config_version as config_version,
    e.served_entity_id,
    e.entity_name as model,
    coalesce(c.calls, 0) as calls,
    c.calls / sum(c.calls) over (partition by e.endpoint_name, e.endpoint_config_version) as share_of_calls,
    coalesce(c.failed_calls, 0) as failed_calls,
    coalesce(r.requests, 0) as requests,
    coalesce(r.request_errors, 0) as request_errors,
    r.request_errors / r.requests as error_share,
    coalesce(r.fallback_requests, 0) as fallback_requests,
    r.p50_latency_ms,
    r.p95_latency_ms,
    c.input_tokens,
    c.output_tokens,
    c.cost_usd,
    c.cost_usd / c.calls * 1000 as cost_usd_per_1000_calls,
    c.first_call_time,
    c.last_call_time
from serving.served_entities as e
left join calls as c on c.served_entity_id = e.served_entity_id
left join requests as r on r.served_entity_id = e.served_entity_id
where c.calls is not null or r.requests is not null
order by e.endpoint_name, e.endpoint_config_version, e.served_entity_name;

comment on view serving.entity_comparison is 'One row is one version of a served entity that was asked: compare entities that share an endpoint by errors, latency, tokens and cost. A change of the endpoint or its entities begins a new version';
comment on column serving.entity_comparison.endpoint_name is 'Endpoint that it serves';
comment on column serving.entity_comparison.served_entity_name is 'Its name';
comment on column serving.entity_comparison.config_version is 'Version of the endpoint; entities of equal version ran side by side';
comment on column serving.entity_comparison.served_entity_id is 'Id of this version of the entity';
comment on column serving.entity_comparison.model is 'The model''s name at its provider';
comment on column serving.entity_comparison.calls is 'Calls that ended with it, reused answers not counted';
comment on column serving.entity_comparison.share_of_calls is 'Of the calls of its endpoint and version';
comment on column serving.entity_comparison.failed_calls is 'Calls that failed, with it as the last that was asked';
comment on column serving.entity_comparison.requests is 'Requests sent to it: first ones, retries, fallbacks and hedges';
comment on column serving.entity_comparison.request_errors is 'Of these, without an answer that could be used; those that were broken off do not count';
comment on column serving.entity_comparison.error_share is 'request_errors / requests';
comment on column serving.entity_comparison.fallback_requests is 'Requests it got because another entity failed';
comment on column serving.entity_comparison.p50_latency_ms is 'Half of its answers came within';
comment on column serving.entity_comparison.p95_latency_ms is '95 % of its answers came within';
comment on column serving.entity_comparison.input_tokens is 'Of its calls';
comment on column serving.entity_comparison.output_tokens is 'Of its calls';
comment on column serving.entity_comparison.cost_usd is 'Of its calls; NULL where the price of any is not known';
comment on column serving.entity_comparison.cost_usd_per_1000_calls is 'cost_usd per thousand calls';
comment on column serving.entity_comparison.first_call_time is 'When its first call began, UTC';
comment on column serving.entity_comparison.last_call_time is 'When its last call began, UTC';
