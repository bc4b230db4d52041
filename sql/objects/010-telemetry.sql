-- one row per call: what was asked, what came back, how long it took
create or replace view serving.inference as
select
    databricks_request_id,
    client_request_id,
    request_time::date as request_date,
    request_time,
    endpoint_name,
    served_entity_id,
    status_code,
    execution_duration_ms::bigint as execution_duration_ms,
    request,
    response,
    requester,
    1.0::double as sampling_fraction,
    logging_error_codes,
    error_code,
    error_message,
    cache_hit,
    reused_request_id,
    queue_ms,
    overhead_us,
    len(attempts)::integer as attempts,
    request_hash,
    statement_id,
    config_version
from serving.calls;

comment on view serving.inference is 'One row per call, denied and failed ones too: bodies, status, timings. reused_request_id names the call whose answer a cache hit returned';

-- one row per upstream request; a call that was answered from the cache has none
create or replace view serving.attempts as
select
    c.databricks_request_id,
    a.unnest.attempt_id as attempt_id,
    c.endpoint_name,
    a.unnest.served_entity_id as served_entity_id,
    a.unnest.served_entity_name as served_entity_name,
    a.unnest.started_at as started_at,
    a.unnest.duration_ms as duration_ms,
    a.unnest.status_code as status_code,
    a.unnest.error_code as error_code,
    a.unnest.error_message as error_message,
    a.unnest.reason as reason,
    a.unnest.inputs as inputs
from serving.calls as c, unnest(c.attempts) as a;

comment on view serving.attempts is 'One row per upstream request: entity, status (0 where no answer came), error, duration, and why it was made (first, retry, schema_mismatch). A request that carried the inputs of several embedding calls stands with the first of them';

-- one row per call that usage tracking covers
create or replace view serving.endpoint_usage as
select
    databricks_request_id,
    client_request_id,
    requester,
    status_code,
    request_time,
    coalesce(input_token_count, 0) as input_token_count,
    coalesce(output_token_count, 0) as output_token_count,
    input_character_count,
    output_character_count,
    cached_input_token_count,
    reasoning_token_count,
    usage_context,
    request_streaming,
    served_entity_id,
    endpoint_name,
    cache_hit,
    if(cache_hit, 0, null)::double as cost_usd,
    tokens_estimated,
    statement_id
from serving.calls
where usage_tracking;

comment on view serving.endpoint_usage is 'One row per call: tokens, characters, the caller''s usageContext. cost_usd is NULL where the price is not known, 0 for answers that were reused';
