-- one row per decision of a guardrail about a call
create or replace view serving.guardrail_results as
with decisions as (
    select
        databricks_request_id,
        endpoint_name,
        request_time,
        unnest(guardrail_results) as decision,
        generate_subscripts(guardrail_results, 1) as number,
        log_seq
    from serving.calls
)
select
    databricks_request_id,
    endpoint_name,
    request_time,
    decision.guardrail as guardrail,
    decision.phase as phase,
    decision.kind as kind,
    decision.action as action,
    decision.reason as reason,
    decision.entities as entities,
    decision.duration_ms as duration_ms,
    number::integer as result_number,
    log_seq
from decisions;

comment on view serving.guardrail_results is 'One row per decision of a guardrail about a call; empty as long as there are no guardrails';
comment on column serving.guardrail_results.databricks_request_id is 'Id of the call, as in inference';
comment on column serving.guardrail_results.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.guardrail_results.request_time is 'When the call began, UTC';
comment on column serving.guardrail_results.guardrail is 'Name of the guardrail';
comment on column serving.guardrail_results.phase is 'Whether it looked at the request or at the answer';
comment on column serving.guardrail_results.kind is 'How it decides';
comment on column serving.guardrail_results.action is 'What it did';
comment on column serving.guardrail_results.reason is 'Why';
comment on column serving.guardrail_results.entities is 'What it found, as JSON, without the text itself';
comment on column serving.guardrail_results.duration_ms is 'Time it took';
comment on column serving.guardrail_results.result_number is 'Counts the decisions about the call, from 1';
comment on column serving.guardrail_results.log_seq is 'Place of the call in the log, as in inference';
