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
    coalesce(request, packed_request) as request,
    coalesce(response, packed_response) as response,
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
    config_version,
    log_seq,
    guardrail,
    guarded_request_id
from serving.calls;

comment on view serving.inference is 'One row per call, denied and failed ones too: bodies, status, timings. reused_request_id names the call whose answer a cache hit returned';

-- one row per upstream request; a call that was answered from the cache has none
create or replace view serving.attempts as
with requests as (
    select
        databricks_request_id,
        endpoint_name,
        unnest(attempts) as attempt,
        generate_subscripts(attempts, 1) as number,
        log_seq
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
    number::integer as attempt_number,
    log_seq
from requests;

comment on view serving.attempts is 'One row per upstream request: entity, status (0 where no answer came), error, duration, why it was made and after which failure. A request that carried the inputs of several embedding calls stands with the first of them';

-- What a call costs. The counts are sums over the answers that came for it, from one request or several. A request
-- that a server refused with an error status, or that never reached one, is not billed; one that ended otherwise may be.
create or replace macro __is_answer(attempt) as attempt.error_code is null;
create or replace macro __may_be_billed(attempt) as
    attempt.error_code <> 'CONNECTION_FAILED' and attempt.status_code < 300;
create or replace macro __seconds(attempts, entity_id) as
    coalesce(
        list_sum(
            list_transform(
                list_filter(attempts, lambda a: a.served_entity_id = entity_id),
                lambda a: a.duration_ms
            )
        ),
        0
    ) / 1000;

-- All calls, those too that usage tracking leaves out: budgets count them.
create or replace macro __calls_with_cost() as table
with
calls as (
    select
        c.*,
        s.is_paid_by_time,
        if(s.is_paid_by_time, '*', __price_tier(c.service_tier)) as price_tier,
        -- Requests sent again have about the same length, and each is priced by its own.
        if(
            len(c.attempts) > 1 and c.input_token_count > 0,
            c.input_token_count // greatest(1, len(list_filter(c.attempts, lambda a: __is_answer(a)))),
            coalesce(c.input_token_count, 0)
        ) as price_tokens
    from serving.calls as c
    left join (
        select
            served_entity_id,
            (endpoint_name, served_entity_name) in (select (endpoint, served_entity) from main.entity_prices)
                as is_paid_by_time
        from serving.served_entities
    ) as s on s.served_entity_id = c.served_entity_id
)
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
    c.cache_write_token_count,
    c.reasoning_token_count,
    c.service_tier,
    c.usage_context,
    c.request_streaming,
    c.served_entity_id,
    c.endpoint_name,
    c.cache_hit,
    case
        when c.cache_hit then 0
        -- Without an answer, what was sent may have been billed.
        when c.status_code <> 200 and len(c.attempts) > 0 and len(
            list_filter(
                c.attempts,
                lambda a: __may_be_billed(a) and not (c.is_paid_by_time and a.served_entity_id = c.served_entity_id)
            )
        ) > 0 then null
        -- Nobody answered, and nobody takes money for it.
        when c.status_code <> 200 and c.input_token_count is null
            then if(c.is_paid_by_time, p.per_second * __seconds(c.attempts, c.served_entity_id), 0)
        -- Several entities answered, and the counts are their sum.
        when len(c.attempts) > 1 and len(
            list_filter(c.attempts, lambda a: __is_answer(a) and a.served_entity_id <> c.served_entity_id)
        ) > 0 then null
        when p.output_per_million is null and c.output_token_count > 0 then null
        -- Parts that are more than the whole are no counts to charge by.
        when coalesce(c.cached_input_token_count, 0) + coalesce(c.cache_write_token_count, 0) > c.input_token_count
            then null
        else
            (
                (
                    c.input_token_count
                    - coalesce(c.cached_input_token_count, 0)
                    - coalesce(c.cache_write_token_count, 0)
                ) * p.input_per_million
                + coalesce(c.cached_input_token_count, 0) * coalesce(p.cached_input_per_million, p.input_per_million)
                + coalesce(c.cache_write_token_count, 0) * coalesce(p.cache_write_per_million, p.input_per_million)
                + coalesce(c.output_token_count, 0) * coalesce(p.output_per_million, 0)
            ) / 1e6
            + p.per_call
            + if(p.per_second = 0, 0, p.per_second * __seconds(c.attempts, c.served_entity_id))
    end::double as cost_usd,
    c.tokens_estimated,
    c.statement_id,
    c.log_seq,
    g.store_id as account_id,
    g.store_id as workspace_id,
    c.usage_tracking
from calls as c
cross join serving.store as g
left join serving.served_entity_prices as p
    on p.served_entity_id = c.served_entity_id
    and coalesce(p.service_tier, '*') = c.price_tier
    and p.valid_from <= c.request_time
    and c.request_time < coalesce(p.valid_to, 'infinity')
    and p.from_input_tokens <= c.price_tokens
    and c.price_tokens < coalesce(p.to_input_tokens, 9223372036854775807);

-- one row per call that usage tracking covers
create or replace view serving.endpoint_usage as
select * exclude (usage_tracking)
from __calls_with_cost()
where usage_tracking;

comment on view serving.endpoint_usage is 'One row per call: tokens, characters, the caller''s usageContext, cost. cost_usd is NULL where it is not known: no price, or no answer to a request that may have been billed';

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
comment on column serving.inference.log_seq is 'Place of the call in the log, growing: in the order in which calls were logged';
comment on column serving.inference.guardrail is 'Name of the guardrail that made the call; NULL for the calls of everybody else';
comment on column serving.inference.guarded_request_id is 'The call that the guardrail made it about';
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
comment on column serving.attempts.log_seq is 'Place of the call in the log, as in inference';
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
comment on column serving.endpoint_usage.cache_write_token_count is 'Part of the input that was put into the providers prompt cache';
comment on column serving.endpoint_usage.service_tier is 'The tier that the provider says it charged by; NULL where it names none';
comment on column serving.endpoint_usage.account_id is 'Id of the store, as in store';
comment on column serving.endpoint_usage.workspace_id is 'Id of the store, as in store';
comment on column serving.endpoint_usage.reasoning_token_count is 'Part of the output that is not shown';
comment on column serving.endpoint_usage.usage_context is 'The labels that the caller gave';
comment on column serving.endpoint_usage.request_streaming is 'Whether the answer was streamed';
comment on column serving.endpoint_usage.served_entity_id is 'Version of the entity that answered; join served_entities';
comment on column serving.endpoint_usage.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.endpoint_usage.cache_hit is 'Whether the answer was reused';
comment on column serving.endpoint_usage.cost_usd is 'US dollars, by the prices in served_entity_prices that were valid at request_time; 0 for reused answers and for calls that no provider answered or could bill; NULL where it is not known';
comment on column serving.endpoint_usage.tokens_estimated is 'Whether a token count is an estimate, because the provider gave none';
comment on column serving.endpoint_usage.log_seq is 'Place of the call in the log, as in inference';
comment on column serving.endpoint_usage.statement_id is 'Equal for the calls of one SQL statement';
