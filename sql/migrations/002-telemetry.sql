-- What the calls leave behind. Times are UTC, without a zone: fetching a zoned one needs a package more in Python. One physical table holds one row per call, because a DuckDB commit costs about
-- as much per table as per call; serving.inference, serving.attempts and serving.endpoint_usage are views on it.

create schema serving;

-- one row is one call: an ai_query row, answered, reused, refused, failed or cancelled
create table serving.calls (
    databricks_request_id varchar not null,
    client_request_id varchar,
    request_time timestamp not null,
    endpoint_name varchar not null,
    config_version integer,
    served_entity_id varchar,
    requester varchar not null,
    statement_id varchar,
    usage_context map(varchar, varchar),
    request_hash varchar not null,
    payload_logging boolean not null,
    usage_tracking boolean not null,
    status_code integer not null,
    error_code varchar,
    error_message varchar,
    execution_duration_ms double not null,
    queue_ms double not null,
    overhead_us double not null,
    cache_hit boolean not null,
    reused_request_id varchar,
    request varchar,
    response varchar,
    logging_error_codes varchar[],
    input_token_count bigint,
    output_token_count bigint,
    cached_input_token_count bigint,
    reasoning_token_count bigint,
    tokens_estimated boolean not null,
    input_character_count bigint not null,
    output_character_count bigint not null,
    request_streaming boolean not null,
    attempts struct(
        attempt_id varchar,
        served_entity_id varchar,
        served_entity_name varchar,
        started_at timestamp,
        duration_ms double,
        status_code integer,
        error_code varchar,
        error_message varchar,
        reason varchar,
        inputs integer
    )[]
);

comment on table serving.calls is 'One row is one call as written by the gateway; read it through serving.inference, serving.attempts and serving.endpoint_usage';

-- one row is one version of a served entity
create table serving.served_entities (
    served_entity_id varchar primary key,
    endpoint_name varchar not null,
    served_entity_name varchar not null,
    entity_type varchar not null,
    entity_name varchar not null,
    entity_version varchar,
    endpoint_config_version integer not null,
    task varchar not null,
    external_model_config struct(provider varchar, base_url varchar),
    created_by varchar not null,
    change_time timestamp not null,
    endpoint_delete_time timestamp,
    config_fingerprint varchar not null
);

comment on table serving.served_entities is 'One row is one version of a served entity; join it to the calls by served_entity_id';
comment on column serving.served_entities.entity_type is 'EXTERNAL_MODEL, or CUSTOM_MODEL where the task is custom';
comment on column serving.served_entities.entity_name is 'The model''s name at its provider';
comment on column serving.served_entities.endpoint_config_version is 'Counts the changes of the endpoint and its entities, from 1';
comment on column serving.served_entities.change_time is 'When the gateway first saw this version';
comment on column serving.served_entities.endpoint_delete_time is 'When the gateway first missed the endpoint';
comment on column serving.served_entities.config_fingerprint is 'Tells whether the rows behind this version have changed';
