-- The catalogue of errors. tests/test_reference.py compares it with the code that raises them, both ways.

-- one row is one way in which a statement, a call or one attempt of it can fail
create or replace view error_codes as
with
statuses (error_code, status_code, is_retried, falls_back, meaning, remedy) as (
    values
        ('BAD_REQUEST', 400, false, false, 'The model''s server refuses the request. One that it will not answer, as too long or against its rules, goes to other entities where endpoints.fallback_on says so', 'Check the request, modelParameters and responseFormat against what the model accepts'),
        ('UNAUTHENTICATED', 401, false, true, 'The server does not accept the key', 'Check the row of fleming.credentials that the served entity names'),
        ('PAYMENT_REQUIRED', 402, false, true, 'The account behind the key has nothing left to spend', 'Top it up, or name another credential'),
        ('PERMISSION_DENIED', 403, false, true, 'The key may not do this', 'Check the credential of the served entity and what its key may do'),
        ('RESOURCE_DOES_NOT_EXIST', 404, false, false, 'The server does not know the model or the address', 'Check the columns base_url and model of the served entity'),
        ('DEADLINE_EXCEEDED', 408, true, true, 'The server waited too long for the request', 'Run the statement again'),
        ('REQUEST_TOO_LARGE', 413, false, false, 'The request is longer than the server takes', 'Shorten it, or name context_window in endpoints.fallback_on'),
        ('UNPROCESSABLE_ENTITY', 422, false, false, 'The server refuses a value of the request', 'Check the request, modelParameters and responseFormat against what the model accepts'),
        ('TEMPORARILY_UNAVAILABLE', 425, true, true, 'The server does not take the request yet', 'Run the statement again'),
        ('REQUEST_LIMIT_EXCEEDED', 429, true, true, 'The provider''s own rate limit is reached', 'Lower endpoints.max_concurrency, or raise max_retries or timeout_ms'),
        ('INTERNAL_ERROR', 500, true, true, 'The provider failed', 'Run the statement again, or raise endpoints.max_retries'),
        ('INTERNAL_ERROR', 502, true, true, 'A server before the provider''s had no answer from it', 'Run the statement again, or raise endpoints.max_retries'),
        ('TEMPORARILY_UNAVAILABLE', 503, true, true, 'The provider does not answer at the moment', 'Run the statement again, or raise endpoints.max_retries'),
        ('DEADLINE_EXCEEDED', 504, true, true, 'A server before the provider''s waited too long for it', 'Run the statement again, or raise endpoints.max_retries'),
        ('OVERLOADED', 529, true, true, 'The provider has more to do than it takes', 'Run the statement again, or raise endpoints.max_retries'),
        ('BAD_REQUEST', null, false, false, 'Another status below 500', 'Read the provider''s message in the error'),
        ('INTERNAL_ERROR', null, false, true, 'Another status of 500 and above', 'Run the statement again; the fault is the provider''s')
)
select
    'provider' as origin,
    'REMOTE_FUNCTION_HTTP_FAILED_ERROR' as condition,
    error_code,
    status_code,
    '57012' as sql_state,
    is_retried,
    falls_back,
    meaning,
    remedy
from statuses
union all
select
    'provider',
    'REMOTE_FUNCTION_HTTP_RETRY_TIMEOUT',
    error_code,
    status_code,
    null,
    is_retried,
    falls_back,
    meaning || '. More than one attempt was made',
    remedy
from statuses
where is_retried
union all
values
    ('provider', 'AI_FUNCTION_HTTP_REQUEST_ERROR', 'CONNECTION_FAILED', 503, '08000', true, true, 'No connection: refused, an unknown host, or TLS', 'Check that the server runs, and the column base_url of the served entity'),
    ('provider', 'AI_FUNCTION_HTTP_REQUEST_ERROR', 'DEADLINE_EXCEEDED', 504, '08000', false, true, 'No answer within timeout_ms or attempt_timeout_ms. It may have been billed, so the same entity is not asked again unless endpoints.retry_on_timeout is set', 'Raise endpoints.timeout_ms if the model needs longer'),
    ('provider', 'AI_FUNCTION_HTTP_REQUEST_ERROR', 'CONNECTION_LOST', 502, '08000', false, true, 'The connection broke before the answer was whole. It may have been billed, so the same entity is not asked again unless endpoints.retry_on_timeout is set', 'Run the statement again, or set endpoints.retry_on_timeout'),
    ('provider', 'AI_FUNCTION_INVALID_HTTP_RESPONSE', 'INVALID_RESPONSE', 502, '08000', false, true, 'The answer is not in the provider''s wire format. The same entity is not asked again unless endpoints.retry_on_timeout is set', 'Check that the columns provider and base_url of the served entity fit together'),
    ('provider', 'AI_FUNCTION_INVALID_HTTP_RESPONSE', 'MAX_RESPONSE_SIZE_EXCEEDED', 502, '08000', false, false, 'The answer is longer than endpoints.max_response_bytes', 'Lower max_tokens or raise endpoints.max_response_bytes'),
    ('provider', 'AI_FUNCTION_INVALID_HTTP_RESPONSE', 'REDIRECT_REFUSED', 502, '08000', false, true, 'The server points elsewhere; redirects are not followed, since they would take the key along', 'Set the column base_url of the served entity to the final address'),
    ('provider', 'CREDENTIAL_ERROR', 'CREDENTIAL_ERROR', 400, null, false, true, 'A secret is missing, empty or cannot be read; nothing was sent', 'Check the row of fleming.credentials and the place that it names'),
    ('provider', 'AI_FUNCTION_UNSUPPORTED_REQUEST', 'BAD_REQUEST', 400, null, false, true, 'The request cannot be put into the wire format of this entity; nothing was sent', 'Ask in a form that the model takes, or have another entity in the endpoint'),
    ('gateway', 'AI_FUNCTION_UNSUPPORTED_REQUEST', 'BAD_REQUEST', 400, null, false, false, 'The request does not fit the task of the endpoint; nothing was sent', 'Give text, messages, or for embeddings texts; see ai_query'),
    ('gateway', 'RESOURCE_DOES_NOT_EXIST', 'RESOURCE_DOES_NOT_EXIST', 404, null, false, false, 'There is no endpoint of this name', 'Take a name of fleming.endpoints, or insert the row'),
    ('gateway', 'PERMISSION_DENIED', 'PERMISSION_DENIED', 403, null, false, false, 'The caller may not query the endpoint, or the endpoint or the caller is switched off', 'Insert a row into fleming.permissions, or set the column enabled'),
    ('gateway', 'CONFIG_PROBLEM', 'CONFIG_PROBLEM', 400, null, false, false, 'A row of the configuration that the call would meet is wrong', 'Read fleming.config_problems, column remedy'),
    ('gateway', 'BUDGET_EXCEEDED', 'BUDGET_EXCEEDED', 403, null, false, false, 'A budget that blocks is used up, or the call could use more than is left; nothing was sent', 'Wait for the next window, or raise the budget; serving.spend shows how far it is used'),
    ('gateway', 'REQUEST_LIMIT_EXCEEDED', 'REQUEST_LIMIT_EXCEEDED', 429, null, false, false, 'A row of fleming.rate_limits is used up and rejects, would make the call wait longer than max_wait_ms, or never leaves as many tokens; nothing was sent', 'Try again after the time that the error names, set on_exceeded to wait, or raise the limit'),
    ('gateway', 'INPUT_GUARDRAIL_TRIGGERED', 'BAD_REQUEST', 400, null, false, false, 'A guardrail blocked the request; no model was asked', 'Read the reason in the error; serving.guardrail_results has the decision'),
    ('gateway', 'OUTPUT_GUARDRAIL_TRIGGERED', 'BAD_REQUEST', 400, null, false, false, 'A guardrail blocked the answer, which has been paid for', 'Read the reason in the error; serving.guardrail_results has the decision'),
    ('gateway', 'GUARDRAIL_UNDECIDED', 'INVALID_RESPONSE', 422, null, false, false, 'A call that a guardrail made was answered in words that the guardrail cannot read', 'Give the guardrail a model that keeps to its answers, or set on_error'),
    ('gateway', 'AI_FUNCTION_JSON_PARSE_ERROR', 'INVALID_RESPONSE', 422, '22000', true, false, 'The answer is not JSON or does not fit responseFormat, nor does the second one, for which the reason was told', 'Check responseFormat, or use a model that keeps to a schema'),
    ('gateway', 'AI_FUNCTION_HTTP_PARSE_CAST_ERROR', 'INVALID_RESPONSE', 422, '2203G', false, false, 'The answer cannot be cast to returnType. To the type of a responseFormat the model is asked once more', 'Check returnType against what the model answers'),
    ('gateway', 'INTERNAL_ERROR', 'INTERNAL_ERROR', 500, null, false, false, 'The gateway itself failed', 'Report it with what the logger fleming_sql says at DEBUG'),
    ('gateway', 'CANCELLED', 'CANCELLED', 499, null, false, false, 'The statement was interrupted or its connection closed while the call was under way', 'Run the statement again: it sends what is missing'),
    ('statement', 'DATATYPE_MISMATCH', null, null, null, false, false, 'An argument is of a type that it does not take', 'Give what the error names'),
    ('statement', 'RESOURCE_DOES_NOT_EXIST', null, null, null, false, false, 'There is no endpoint of this name', 'Take a name of fleming.endpoints'),
    ('statement', 'AI_FUNCTION_UNSUPPORTED_REQUEST', null, null, null, false, false, 'An argument is NULL, or of a kind that the function does not take', 'Give what the error names'),
    ('statement', 'AI_FUNCTION_UNSUPPORTED_RETURN_TYPE', null, null, null, false, false, 'returnType is no type', 'Write a type as DuckDB or Databricks does'),
    ('statement', 'AI_FUNCTION_INVALID_RESPONSE_FORMAT_TYPE', null, null, '0A000', false, false, 'responseFormat is neither text, json_object, a JSON Schema in its envelope nor a type', 'Write it as the error says'),
    ('statement', 'AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT', null, null, null, false, false, 'responseFormat lacks the envelope json_schema, or the endpoint is not of a chat task', 'Write it as the error says'),
    ('statement', 'AI_FUNCTION_UNSUPPORTED_RESPONSE_FORMAT.DDL_STRING', null, null, null, false, false, 'responseFormat is a type, but not one STRUCT field in a STRUCT', 'Write STRUCT<name: STRUCT<…>>'),
    ('statement', 'AI_FUNCTION_INVALID_MODEL_PARAMETERS.FOUND_RESERVED_PARAMETER_NAME', null, null, '22023', false, false, 'A model parameter has a name that belongs elsewhere', 'Put it where the error says'),
    ('statement', 'AI_FUNCTION_INVALID_MODEL_PARAMETERS.INVALID_NUMERIC_PARAMETER', null, null, '22023', false, false, 'A model parameter is out of its range', 'Give a number that the error allows'),
    ('statement', 'AI_FUNCTION_INVALID_MODEL_PARAMETERS.INVALID_PARAMETER_DATA_TYPE', null, null, '22023', false, false, 'A model parameter is of the wrong type', 'Give the type that the error names'),
    ('statement', 'AI_FUNCTION_INVALID_MODEL_PARAMETERS.UNSUPPORTED_ENDPOINT_TYPE', null, null, '22023', false, false, 'modelParameters were given for a custom model', 'Put its inputs into the request'),
    ('statement', 'GATEWAY_CLOSED', null, null, null, false, false, 'The connection, or the one that made the function known, was closed', 'Connect or attach again'),
    ('log', null, 'MAX_REQUEST_SIZE_EXCEEDED', null, null, false, false, 'The request is longer than endpoints.max_logged_bytes, so the log has none', 'Raise endpoints.max_logged_bytes'),
    ('log', null, 'MAX_RESPONSE_SIZE_EXCEEDED', null, null, false, false, 'The response is longer than endpoints.max_logged_bytes, so the log has none', 'Raise endpoints.max_logged_bytes'),
    ('log', null, 'RECORD_NOT_WRITABLE', null, null, false, false, 'The record could not be written as it was; counts, texts and attempts are left out', 'Nothing: the call itself was not touched')
order by all;

comment on view error_codes is 'One row is one way in which a statement, a call or one attempt of it can fail, and what to do about it';
comment on column error_codes.origin is 'Who finds it: statement (before any row is read; nothing is logged), gateway (before or after the model), provider (an attempt at a served entity), log (the column logging_error_codes of a call that is otherwise well)';
comment on column error_codes.condition is 'What the error''s text begins with, in brackets; Databricks'' name where it has one';
comment on column error_codes.error_code is 'As in serving.inference, serving.attempts and serving.errors; NULL where no call was made';
comment on column error_codes.status_code is 'HTTP status in the log; NULL for a row that stands for several, or for none';
comment on column error_codes.sql_state is 'The SQLSTATE that Databricks documents for the condition; NULL where none is known';
comment on column error_codes.is_retried is 'Whether the same served entity may be asked again, within endpoints.max_retries and timeout_ms';
comment on column error_codes.falls_back is 'Whether the other served entities of the endpoint are asked, unless endpoints.fallback_enabled is false';
comment on column error_codes.meaning is 'What has happened';
comment on column error_codes.remedy is 'What to do about it';
