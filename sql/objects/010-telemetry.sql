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

comment on column serving.inference.databricks_request_id is 'Id of the call, given by the gateway';
comment on column serving.inference.client_request_id is 'Id given by the caller';
comment on column serving.inference.request_date is 'Day of request_time, UTC';
comment on column serving.inference.request_time is 'When the call began, UTC';
comment on column serving.inference.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.inference.served_entity_id is 'Version of the entity that was asked; NULL where none was';
comment on column serving.inference.status_code is '200, or the HTTP status that stands for the failure; 499 for a call that was broken off';
comment on column serving.inference.execution_duration_ms is 'From the beginning to the end of the call, retries included, without queue_ms';
comment on column serving.inference.request is 'Body as sent, less credentials; the last one where there were several';
comment on column serving.inference.response is 'Body as received';
comment on column serving.inference.requester is 'On whose behalf';
comment on column serving.inference.sampling_fraction is 'Share of calls that are logged: 1';
comment on column serving.inference.logging_error_codes is 'Why a body is missing: MAX_REQUEST_SIZE_EXCEEDED, MAX_RESPONSE_SIZE_EXCEEDED';
comment on column serving.inference.error_code is 'Short code of the failure; NULL for success';
comment on column serving.inference.error_message is 'What the caller was told';
comment on column serving.inference.cache_hit is 'Whether the answer is that of another, identical call';
comment on column serving.inference.reused_request_id is 'The call whose answer this is';
comment on column serving.inference.queue_ms is 'Waited for other statements to leave a place at the endpoint';
comment on column serving.inference.overhead_us is 'Spent in the gateway itself: neither queued, nor waiting for the provider or for a retry';
comment on column serving.inference.attempts is 'Upstream requests made';
comment on column serving.inference.request_hash is 'Equal for calls that may share an answer';
comment on column serving.inference.statement_id is 'Equal for the calls of one SQL statement';
comment on column serving.inference.config_version is 'Version of the endpoint, as in served_entities.endpoint_config_version';

comment on column serving.attempts.databricks_request_id is 'The call it was made for';
comment on column serving.attempts.attempt_id is 'Id of the request';
comment on column serving.attempts.endpoint_name is 'Endpoint of the call';
comment on column serving.attempts.served_entity_id is 'Version of the entity that was asked';
comment on column serving.attempts.served_entity_name is 'Its name';
comment on column serving.attempts.started_at is 'When it was sent, UTC';
comment on column serving.attempts.duration_ms is 'Until the whole answer was there, or the failure';
comment on column serving.attempts.status_code is 'HTTP status; 0 where none came';
comment on column serving.attempts.error_code is 'Short code of the failure; NULL for success';
comment on column serving.attempts.error_message is 'What the provider or the network said';
comment on column serving.attempts.reason is 'first, retry, or schema_mismatch where the answer before did not fit';
comment on column serving.attempts.inputs is 'Inputs it carried; more than 1 where embedding calls shared it';

comment on column serving.endpoint_usage.databricks_request_id is 'Id of the call, as in inference';
comment on column serving.endpoint_usage.client_request_id is 'Id given by the caller';
comment on column serving.endpoint_usage.requester is 'On whose behalf';
comment on column serving.endpoint_usage.status_code is 'As in inference';
comment on column serving.endpoint_usage.request_time is 'When the call began, UTC';
comment on column serving.endpoint_usage.input_token_count is 'Tokens sent, all attempts that were answered together; 0 for answers that were reused';
comment on column serving.endpoint_usage.output_token_count is 'Tokens received';
comment on column serving.endpoint_usage.input_character_count is 'Characters of the texts in the request';
comment on column serving.endpoint_usage.output_character_count is 'Characters of the answers text';
comment on column serving.endpoint_usage.cached_input_token_count is 'Part of the input that came from the providers prompt cache';
comment on column serving.endpoint_usage.reasoning_token_count is 'Part of the output that is not shown';
comment on column serving.endpoint_usage.usage_context is 'The labels that the caller gave';
comment on column serving.endpoint_usage.request_streaming is 'Whether the answer was streamed';
comment on column serving.endpoint_usage.served_entity_id is 'Version of the entity that answered; join served_entities';
comment on column serving.endpoint_usage.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.endpoint_usage.cache_hit is 'Whether the answer was reused';
comment on column serving.endpoint_usage.cost_usd is '0 for reused answers, NULL where the price is not known';
comment on column serving.endpoint_usage.tokens_estimated is 'Whether a token count is an estimate, because the provider gave none';
comment on column serving.endpoint_usage.statement_id is 'Equal for the calls of one SQL statement';
