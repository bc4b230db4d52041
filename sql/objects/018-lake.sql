-- The exported Delta tables, as of the moment that a statement is bound. Which files are live is asked of the gateway
-- that has the store open, so these views answer only through a connection to it.
create schema if not exists lake;

-- one row is one call, as exported
create or replace view lake.inference as from query(__fleming_lake('inference'));

comment on view lake.inference is 'One row is one call, as exported to the Delta table inference at delta_location, by any store';
comment on column lake.inference.databricks_request_id is 'As in serving.inference';
comment on column lake.inference.client_request_id is 'As in serving.inference';
comment on column lake.inference.request_date is 'As in serving.inference; the table is partitioned by it';
comment on column lake.inference.request_time is 'As in serving.inference';
comment on column lake.inference.endpoint_name is 'As in serving.inference';
comment on column lake.inference.served_entity_id is 'As in serving.inference';
comment on column lake.inference.status_code is 'As in serving.inference';
comment on column lake.inference.execution_duration_ms is 'As in serving.inference';
comment on column lake.inference.request is 'As in serving.inference';
comment on column lake.inference.response is 'As in serving.inference';
comment on column lake.inference.requester is 'As in serving.inference';
comment on column lake.inference.sampling_fraction is 'As in serving.inference';
comment on column lake.inference.logging_error_codes is 'As in serving.inference';
comment on column lake.inference.error_code is 'As in serving.inference';
comment on column lake.inference.error_message is 'As in serving.inference';
comment on column lake.inference.cache_hit is 'As in serving.inference';
comment on column lake.inference.reused_request_id is 'As in serving.inference';
comment on column lake.inference.queue_ms is 'As in serving.inference';
comment on column lake.inference.limit_wait_ms is 'As in serving.inference';
comment on column lake.inference.overhead_us is 'As in serving.inference';
comment on column lake.inference.attempts is 'As in serving.inference';
comment on column lake.inference.request_hash is 'As in serving.inference';
comment on column lake.inference.statement_id is 'As in serving.inference';
comment on column lake.inference.config_version is 'As in serving.inference';
comment on column lake.inference.log_seq is 'As in serving.inference';
comment on column lake.inference.guardrail is 'As in serving.inference';
comment on column lake.inference.guarded_request_id is 'As in serving.inference';
comment on column lake.inference.store_id is 'Store that exported the row, as in serving.store';

-- one row is one upstream request, as exported
create or replace view lake.attempts as from query(__fleming_lake('attempts'));

comment on view lake.attempts is 'One row is one upstream request, as exported to the Delta table attempts at delta_location, by any store';
comment on column lake.attempts.databricks_request_id is 'As in serving.attempts';
comment on column lake.attempts.attempt_id is 'As in serving.attempts';
comment on column lake.attempts.endpoint_name is 'As in serving.attempts';
comment on column lake.attempts.served_entity_id is 'As in serving.attempts';
comment on column lake.attempts.served_entity_name is 'As in serving.attempts';
comment on column lake.attempts.started_at is 'As in serving.attempts';
comment on column lake.attempts.duration_ms is 'As in serving.attempts';
comment on column lake.attempts.status_code is 'As in serving.attempts';
comment on column lake.attempts.error_code is 'As in serving.attempts';
comment on column lake.attempts.error_message is 'As in serving.attempts';
comment on column lake.attempts.reason is 'As in serving.attempts';
comment on column lake.attempts.after_error_code is 'As in serving.attempts';
comment on column lake.attempts.inputs is 'As in serving.attempts';
comment on column lake.attempts.attempt_number is 'As in serving.attempts';
comment on column lake.attempts.log_seq is 'As in serving.attempts';
comment on column lake.attempts.request_date is 'Day of the call''s request_time, UTC; the table is partitioned by it';
comment on column lake.attempts.store_id is 'Store that exported the row, as in serving.store';

-- one row is one call that usage tracking covers, as exported
create or replace view lake.endpoint_usage as from query(__fleming_lake('endpoint_usage'));

comment on view lake.endpoint_usage is 'One row is one call that usage tracking covers, as exported to the Delta table endpoint_usage at delta_location, by any store';
comment on column lake.endpoint_usage.databricks_request_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.client_request_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.requester is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.status_code is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.request_time is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.input_token_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.output_token_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.input_character_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.output_character_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.cached_input_token_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.cache_write_token_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.reasoning_token_count is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.service_tier is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.usage_context is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.request_streaming is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.served_entity_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.endpoint_name is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.cache_hit is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.cost_usd is 'As in serving.endpoint_usage when the row was exported';
comment on column lake.endpoint_usage.tokens_estimated is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.statement_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.log_seq is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.account_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.workspace_id is 'As in serving.endpoint_usage';
comment on column lake.endpoint_usage.request_date is 'Day of the call''s request_time, UTC; the table is partitioned by it';
comment on column lake.endpoint_usage.store_id is 'Store that exported the row, as in serving.store';

-- one row is one decision of a guardrail about a call, as exported
create or replace view lake.guardrail_results as from query(__fleming_lake('guardrail_results'));

comment on view lake.guardrail_results is 'One row is one decision of a guardrail about a call, as exported to the Delta table guardrail_results at delta_location, by any store';
comment on column lake.guardrail_results.databricks_request_id is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.endpoint_name is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.request_time is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.guardrail is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.phase is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.kind is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.action is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.reason is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.entities is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.duration_ms is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.result_number is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.log_seq is 'As in serving.guardrail_results';
comment on column lake.guardrail_results.request_date is 'Day of the call''s request_time, UTC; the table is partitioned by it';
comment on column lake.guardrail_results.store_id is 'Store that exported the row, as in serving.store';

-- one row is one version of a served entity, as exported
create or replace view lake.served_entities as from query(__fleming_lake('served_entities'));

comment on view lake.served_entities is 'One row is one version of a served entity, as exported to the Delta table served_entities at delta_location, by any store';
comment on column lake.served_entities.served_entity_id is 'As in serving.served_entities';
comment on column lake.served_entities.endpoint_name is 'As in serving.served_entities';
comment on column lake.served_entities.served_entity_name is 'As in serving.served_entities';
comment on column lake.served_entities.entity_type is 'As in serving.served_entities';
comment on column lake.served_entities.entity_name is 'As in serving.served_entities';
comment on column lake.served_entities.entity_version is 'As in serving.served_entities';
comment on column lake.served_entities.endpoint_config_version is 'As in serving.served_entities';
comment on column lake.served_entities.task is 'As in serving.served_entities';
comment on column lake.served_entities.external_model_config is 'As in serving.served_entities';
comment on column lake.served_entities.created_by is 'As in serving.served_entities';
comment on column lake.served_entities.change_time is 'As in serving.served_entities';
comment on column lake.served_entities.endpoint_delete_time is 'As in serving.served_entities';
comment on column lake.served_entities.config_fingerprint is 'As in serving.served_entities';
comment on column lake.served_entities.account_id is 'As in serving.served_entities';
comment on column lake.served_entities.workspace_id is 'As in serving.served_entities';
comment on column lake.served_entities.endpoint_id is 'As in serving.served_entities';
comment on column lake.served_entities.foundation_model_config is 'As in serving.served_entities';
comment on column lake.served_entities.custom_model_config is 'As in serving.served_entities';
comment on column lake.served_entities.feature_spec_config is 'As in serving.served_entities';
comment on column lake.served_entities.change_date is 'Day of change_time, UTC; the table is partitioned by it';
comment on column lake.served_entities.store_id is 'Store that exported the row, as in serving.store';
