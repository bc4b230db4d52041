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

comment on view serving.guardrail_results is 'One row per decision of a guardrail about a call; guardrail_hits sums them up. What a guardrail matched is never in it';
comment on column serving.guardrail_results.databricks_request_id is 'Id of the call, as in inference';
comment on column serving.guardrail_results.endpoint_name is 'Endpoint as the caller named it';
comment on column serving.guardrail_results.request_time is 'When the call began, UTC';
comment on column serving.guardrail_results.guardrail is 'Name of the guardrail, or what stands for it, such as input-pii-1';
comment on column serving.guardrail_results.phase is 'input: it looked at the request; output: at the answer';
comment on column serving.guardrail_results.kind is 'How it decides, as in guardrail_kinds';
comment on column serving.guardrail_results.action is 'block: it refused the call, because of what it found or because it failed; mask: it took what it found out of the text; log: it only wrote down what it found, or that it failed; none: it found nothing; allow: it failed, and let the call pass';
comment on column serving.guardrail_results.reason is 'Why, without the text that it matched; with none, what it could not look at, such as pictures';
comment on column serving.guardrail_results.entities is 'What it found: a JSON array of {"type", "count", "spans": [{"part", "start", "end"}]}; part is the place of the text in the request or answer, such as messages[0].content, start and end count its characters as the guardrail saw it. A category of harm has "score", 0 to 1. NULL for nothing';
comment on column serving.guardrail_results.duration_ms is 'Time it took';
comment on column serving.guardrail_results.result_number is 'Counts the decisions about the call, from 1';
comment on column serving.guardrail_results.log_seq is 'Place of the call in the log, as in inference';
