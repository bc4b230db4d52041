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
    limit_wait_ms,
    overhead_us,
    len(attempts)::integer as attempts,
    replace(request_hash::varchar, '-', '') as request_hash,
    statement_id,
    config_version
from serving.calls;

comment on view serving.inference is 'One row per call, denied and failed ones too: bodies, status, timings. reused_request_id names the call whose answer a cache hit returned';

-- one row per upstream request; a call that was answered from the cache has none
create or replace view serving.attempts as
with requests as (
    select
        databricks_request_id,
        endpoint_name,
        unnest(attempts) as attempt,
        generate_subscripts(attempts, 1) as number
    from serving.calls
)
select
    databricks_request_id,
    attempt.attempt_id as attempt_id,
    endpoint_name,
    attempt.served_entity_id as served_entity_id,
    attempt.served_entity_name as served_entity_name,
    attempt.started_at as started_at,
    attempt.duration_ms as duration_ms,
    attempt.status_code as status_code,
    attempt.error_code as error_code,
    attempt.error_message as error_message,
    attempt.reason as reason,
    attempt.after_error_code as after_error_code,
    attempt.inputs as inputs,
    number::integer as attempt_number
from requests;

comment on view serving.attempts is 'One row per upstream request: entity, status (0 where no answer came), error, duration, why it was made and after which failure. A request that carried the inputs of several embedding calls stands with the first of them';

-- one row per call that usage tracking covers
create or replace view serving.endpoint_usage as
select
    c.databricks_request_id,
    c.client_request_id,
    c.requester,
    c.status_code,
    c.request_time,
    coalesce(c.input_token_count, 0) as input_token_count,
    coalesce(c.output_token_count, 0) as output_token_count,
    c.input_character_count,
    c.output_character_count,
    c.cached_input_token_count,
    c.reasoning_token_count,
    c.usage_context,
    c.request_streaming,
    c.served_entity_id,
    c.endpoint_name,
    c.cache_hit,
    if(
        c.cache_hit,
        0,
        (
            (coalesce(c.input_token_count, 0) - coalesce(c.cached_input_token_count, 0)) * p.input_per_million
            + coalesce(c.cached_input_token_count, 0) * coalesce(p.cached_input_per_million, p.input_per_million)
            + coalesce(c.output_token_count, 0) * p.output_per_million
        ) / 1e6
    )::double as cost_usd,
    c.tokens_estimated,
    c.statement_id
from serving.calls as c
left join serving.served_entities as s on s.served_entity_id = c.served_entity_id
asof left join main.model_prices as p
    on p.provider = s.external_model_config.provider
    and p.model = s.entity_name
    and p.valid_from <= c.request_time
where c.usage_tracking;

comment on view serving.endpoint_usage is 'One row per call: tokens, characters, the caller''s usageContext. cost_usd is NULL where model_prices has no price, 0 for answers that were reused';

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
comment on column serving.inference.queue_ms is 'Waited before requests: for the rate limits and for a place at the endpoint and its served entity';
comment on column serving.inference.limit_wait_ms is 'Part of queue_ms: waited for the rate limits';
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
comment on column serving.attempts.reason is 'first, retry (the same entity), fallback (another one), hedge (beside one that takes long), or schema_mismatch where the answer before did not fit';
comment on column serving.attempts.after_error_code is 'Error that led to this one: of the attempt before, or of one that sent no request because no key could be had';
comment on column serving.attempts.attempt_number is 'Counts the requests of the call, from 1';
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
comment on column serving.endpoint_usage.cost_usd is 'Tokens at the price that model_prices had at the time; 0 for reused answers, NULL where it has none';
comment on column serving.endpoint_usage.tokens_estimated is 'Whether a token count is an estimate, because the provider gave none';
comment on column serving.endpoint_usage.statement_id is 'Equal for the calls of one SQL statement';
