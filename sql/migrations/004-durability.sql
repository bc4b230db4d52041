-- What must not be lost, what it costs and where it goes: the log in a compact form, settings, prices, budgets, alerts.

-- one row is one setting that is not left at its default
create table settings (
    name varchar primary key,
    value varchar
);

comment on table settings is 'One row is one setting of the gateway that is not left at its default; settings_in_effect shows them all';
comment on column settings.name is 'As in settings_in_effect';
comment on column settings.value is 'As text';

-- one row is this store: what tells its records from those of other stores
create table serving.store (
    store_id varchar not null,
    created_at timestamp not null
);

comment on table serving.store is 'One row is this store: its id tells its records apart where several stores export to one place';
comment on column serving.store.store_id is 'A UUID, given when the store was made';
comment on column serving.store.created_at is 'UTC';

insert into serving.store values (uuid()::varchar, now() at time zone 'UTC');

-- The columns of Databricks' table that served_entities lacked, so that its documented queries run.
alter table serving.served_entities add column account_id varchar;
alter table serving.served_entities add column workspace_id varchar;
alter table serving.served_entities add column endpoint_id varchar;
alter table serving.served_entities add column foundation_model_config struct(min_provisioned_throughput bigint, max_provisioned_throughput bigint);
alter table serving.served_entities add column custom_model_config struct(min_concurrency bigint, max_concurrency bigint, compute_type varchar);
alter table serving.served_entities add column feature_spec_config struct(min_concurrency bigint, max_concurrency bigint, compute_type varchar);
update serving.served_entities
set
    account_id = (select store_id from serving.store),
    workspace_id = (select store_id from serving.store),
    endpoint_id = md5((select store_id from serving.store) || '/' || endpoint_name);

comment on column serving.served_entities.account_id is 'Id of the store, as in store';
comment on column serving.served_entities.workspace_id is 'Id of the store, as in store';
comment on column serving.served_entities.endpoint_id is 'Equal for all versions of the endpoint';
comment on column serving.served_entities.foundation_model_config is 'NULL: for models that Databricks hosts';
comment on column serving.served_entities.custom_model_config is 'NULL: for models that Databricks hosts';
comment on column serving.served_entities.feature_spec_config is 'NULL: for features that Databricks serves';
comment on column serving.served_entities.served_entity_id is 'Id of the version; the calls have it too';
comment on column serving.served_entities.endpoint_name is 'Endpoint that it serves';
comment on column serving.served_entities.served_entity_name is 'Its name';
comment on column serving.served_entities.entity_version is 'NULL: for models that a registry gives versions';
comment on column serving.served_entities.task is 'As in endpoints';
comment on column serving.served_entities.external_model_config is 'Provider, and where it answers';
comment on column serving.served_entities.created_by is 'User of the process that first saw this version';
comment on column serving.served_entities.endpoint_config_version is 'Counts the changes of the endpoint and its entities that may change answers, from 1';
comment on column served_entities.name is 'Its name, one of a kind in its endpoint';

-- The log again, smaller and with more columns. Bodies are written as they are, since compressing them takes longer than
-- all else about a record, and are packed while no calls are made: then they stand in the columns packed_*, in a third
-- of the room (zstd packs better and faster than what DuckDB picks by itself). The request hash is a number of 16 bytes, because each vector of new
-- requests is compared with all of them: 5 ms instead of 45 ms for a million calls.
create table serving.compact_calls (
    log_seq bigint not null,
    databricks_request_id varchar not null,
    client_request_id varchar,
    request_time timestamp not null,
    endpoint_name varchar not null,
    config_version integer,
    served_entity_id varchar,
    requester varchar not null,
    statement_id varchar,
    usage_context map(varchar, varchar),
    request_hash uuid not null,
    payload_logging boolean not null,
    usage_tracking boolean not null,
    status_code integer not null,
    error_code varchar,
    error_message varchar,
    execution_duration_ms double not null,
    queue_ms double not null,
    limit_wait_ms double not null,
    overhead_us double not null,
    cache_hit boolean not null,
    reused_request_id varchar,
    request varchar using compression uncompressed,
    response varchar using compression uncompressed,
    packed_request varchar using compression zstd,
    packed_response varchar using compression zstd,
    logging_error_codes varchar[],
    input_token_count bigint,
    output_token_count bigint,
    cached_input_token_count bigint,
    cache_write_token_count bigint,
    reasoning_token_count bigint,
    service_tier varchar,
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
        inputs integer,
        after_error_code varchar
    )[],
    guardrail_results struct(
        guardrail varchar,
        phase varchar,
        kind varchar,
        action varchar,
        reason varchar,
        entities varchar,
        duration_ms double
    )[]
);
insert into serving.compact_calls by name
select
    *
    exclude (request, response)
    replace (replace(request_hash, '-', '')::uuid as request_hash, coalesce(limit_wait_ms, 0) as limit_wait_ms),
    request as packed_request,
    response as packed_response,
    row_number() over (order by request_time, databricks_request_id) as log_seq
from serving.calls
order by log_seq;
drop table serving.calls;
alter table serving.compact_calls rename to calls;

comment on table serving.calls is 'One row is one call as written by the gateway; read it through serving.inference, serving.attempts, serving.endpoint_usage and serving.guardrail_results';

-- one row is one endpoint whose answers up to a time are not reused
create table serving.cache_clears (
    endpoint_name varchar primary key,
    cleared_at timestamp not null
);

comment on table serving.cache_clears is 'One row is one endpoint whose answers up to a time are not reused; ai_cache_clear writes it';
comment on column serving.cache_clears.endpoint_name is 'Its name';
comment on column serving.cache_clears.cleared_at is 'UTC';

-- one row is one journal that an earlier process left behind
create table serving.recoveries (
    recovered_at timestamp not null,
    journal varchar not null,
    records bigint not null,
    replayed bigint not null,
    torn bigint not null
);

comment on table serving.recoveries is 'One row is one journal file that a killed process left behind, and what was found in it when the store was opened again';
comment on column serving.recoveries.recovered_at is 'UTC';
comment on column serving.recoveries.journal is 'Name of the file';
comment on column serving.recoveries.records is 'Whole records in it';
comment on column serving.recoveries.replayed is 'Those that were not in serving.calls yet and are now';
comment on column serving.recoveries.torn is 'Records that were damaged and skipped';

alter table endpoints add column cache_scope varchar default 'shared';
comment on column endpoints.cache_scope is 'Who may get the answer to an identical request of another: shared (everybody who may query the endpoint) or user (nobody but the one who asked)';

-- one row is the price of a model from a time on
create table priced_models (
    provider varchar not null,
    model varchar not null,
    input_per_million double,
    output_per_million double,
    cached_input_per_million double,
    valid_from timestamp not null default '1970-01-01',
    valid_to timestamp,
    cache_write_per_million double,
    service_tier varchar not null default 'default',
    from_input_tokens bigint not null default 0,
    source varchar not null default 'user'
);
insert into priced_models by name from model_prices;
drop table model_prices;
alter table priced_models rename to model_prices;

comment on table model_prices is 'One row is the price of a model from a time on. Rows of your own (source user) replace those of the price list for the same provider and model, from the first valid_from on';
comment on column model_prices.provider is 'As in served_entities.provider';
comment on column model_prices.model is 'As in served_entities.model; * stands for any text, and a name without * goes first';
comment on column model_prices.input_per_million is 'US dollars for a million input tokens';
comment on column model_prices.output_per_million is 'US dollars for a million output tokens, those of reasoning included; NULL for models that answer with none, as embeddings';
comment on column model_prices.cached_input_per_million is 'US dollars for a million input tokens that come from the provider''s prompt cache; NULL is input_per_million';
comment on column model_prices.cache_write_per_million is 'US dollars for a million input tokens that are put into the provider''s prompt cache; NULL is input_per_million';
comment on column model_prices.valid_from is 'UTC';
comment on column model_prices.valid_to is 'UTC, exclusive; NULL is until the next row of the same model, service_tier and from_input_tokens, or for ever';
comment on column model_prices.service_tier is 'As the provider names it in its answer: default, batch, flex, priority, …';
comment on column model_prices.from_input_tokens is 'For calls with at least so many input tokens; the row with the highest number that applies counts for the whole call';
comment on column model_prices.source is 'user, or the price list that it comes from; those are rewritten when the list has a new version';

-- one row is one provider of the price list; rewritten with it
create table price_list_providers (
    provider varchar primary key,
    position integer not null,
    api_pattern varchar not null,
    offers_models_of varchar[] not null,
    list_version varchar not null
);

comment on table price_list_providers is 'One row is one provider of the price list; rewritten with it';
comment on column price_list_providers.provider is 'As in the price list''s rows of model_prices';
comment on column price_list_providers.position is 'The first whose api_pattern fits is an address''s provider';
comment on column price_list_providers.api_pattern is 'Regular expression for the beginning of its address: a served entity with such a base_url goes by the prices of this provider';
comment on column price_list_providers.offers_models_of is 'Other providers of the list, whose prices hold for models that it has no price for';
comment on column price_list_providers.list_version is 'Of the price list and of how it is read';

-- one row is the own price of one served entity from a time on
create table entity_prices (
    endpoint varchar not null,
    served_entity varchar not null,
    per_second double not null default 0,
    per_call double not null default 0,
    valid_from timestamp not null default '1970-01-01',
    valid_to timestamp
);

comment on table entity_prices is 'One row is the own price of one served entity from a time on, for models that you host: by time or by call. It replaces the price of its model';
comment on column entity_prices.endpoint is 'Name in endpoints';
comment on column entity_prices.served_entity is 'Name in served_entities';
comment on column entity_prices.per_second is 'US dollars for a second of its requests'' duration';
comment on column entity_prices.per_call is 'US dollars for a call that it answered';
comment on column entity_prices.valid_from is 'UTC';
comment on column entity_prices.valid_to is 'UTC, exclusive; NULL is until the next row of the same entity, or for ever';

-- one row is one limit on what calls may cost in a day, week or month
create table budgets (
    scope varchar not null default 'global',
    principal varchar,
    endpoint varchar,
    "window" varchar not null default 'month',
    amount_usd double not null,
    action varchar not null default 'alert',
    name varchar,
    context_key varchar,
    time_zone varchar not null default 'UTC',
    webhook varchar,
    enabled boolean not null default true
);

comment on table budgets is 'One row is one limit on what calls may cost in a day, week or month';
comment on column budgets.scope is 'Whose spending counts: global, endpoint, user, group or context (a key of usageContext)';
comment on column budgets.principal is 'For user and group its name, for context the value of the key; NULL gives each user, or each value of the key, a budget of its own';
comment on column budgets.endpoint is 'Counts the calls of one endpoint only; NULL counts all. The scope endpoint needs one';
comment on column budgets."window" is 'day, week (from Monday) or month of the calendar in time_zone';
comment on column budgets.amount_usd is 'US dollars, above 0';
comment on column budgets.action is 'alert writes a row into serving.alerts when it is used up; block does so too and fails further calls with status 403';
comment on column budgets.name is 'What errors and alerts call it; NULL is made of the other columns';
comment on column budgets.context_key is 'The key of usageContext, for the scope context';
comment on column budgets.time_zone is 'IANA name, such as Europe/Berlin: where the day begins';
comment on column budgets.webhook is 'URL that is told when it is used up, or {{secrets/scope/key}}';
comment on column budgets.enabled is 'false leaves it out';

-- one row is one question about the log that raises an alert
create table alerts (
    name varchar primary key,
    query varchar not null,
    comparison varchar not null default '>',
    threshold double not null,
    every interval not null default '1 minute',
    webhook varchar,
    enabled boolean not null default true
);

comment on table alerts is 'One row is one question about the log: when the number that its query returns passes the threshold, serving.alerts gets a row';
comment on column alerts.name is 'What serving.alerts calls it';
comment on column alerts.query is 'A SELECT of one number over the tables and views of this store';
comment on column alerts.comparison is '>, >=, <, <=, = or <>';
comment on column alerts.threshold is 'What the number is compared with';
comment on column alerts.every is 'How long to wait between two looks; nothing is looked at while no calls are made';
comment on column alerts.webhook is 'URL that is told, or {{secrets/scope/key}}';
comment on column alerts.enabled is 'false leaves it out';

-- one row is one alert that was raised
create table serving.alerts (
    alert_id varchar not null,
    alert_time timestamp not null,
    kind varchar not null,
    name varchar not null,
    subject varchar,
    window_start timestamp,
    value double,
    threshold double,
    message varchar not null,
    ended_at timestamp,
    webhook_status varchar
);

comment on table serving.alerts is 'One row is one alert that was raised, by a budget or by a row of alerts';
comment on column serving.alerts.alert_id is 'Id of the alert';
comment on column serving.alerts.alert_time is 'When it was raised, UTC';
comment on column serving.alerts.kind is 'budget or query';
comment on column serving.alerts.name is 'Name of the budget or of the row of alerts';
comment on column serving.alerts.subject is 'Whose spending it was: the user, group or value of a context key; NULL for everybody''s';
comment on column serving.alerts.window_start is 'Beginning of the budget''s window, UTC';
comment on column serving.alerts.value is 'US dollars spent, or what the query returned';
comment on column serving.alerts.threshold is 'What it was compared with';
comment on column serving.alerts.message is 'The same in a sentence';
comment on column serving.alerts.ended_at is 'When the query was seen not to pass the threshold any more, or its row was taken out of alerts; NULL until then and for budgets';
comment on column serving.alerts.webhook_status is 'HTTP status that the webhook answered with, or why it could not be told; NULL without one';

-- one row is one batch of records that was exported, or was about to be
create table serving.exports (
    table_name varchar not null,
    location varchar not null,
    from_seq bigint not null,
    to_seq bigint not null,
    rows bigint,
    exported_at timestamp,
    primary key (table_name, location, to_seq)
);

comment on table serving.exports is 'One row is one batch of records that was exported to a Delta table, or was about to be when the process ended; those of more than 30 days ago are removed, all but the last';
comment on column serving.exports.table_name is 'The Delta table';
comment on column serving.exports.location is 'Where, as in the setting delta_location';
comment on column serving.exports.from_seq is 'First log_seq of the calls in it';
comment on column serving.exports.to_seq is 'Last log_seq; it is the version of this store''s transaction in the Delta table too';
comment on column serving.exports.rows is 'How many rows were written; NULL where the Delta table alone knows';
comment on column serving.exports.exported_at is 'UTC; NULL where it is not known yet whether it was written';

-- one row is one Delta table, and when this store last looked after its files
create table serving.export_upkeep (
    table_name varchar not null,
    location varchar not null,
    task varchar not null,
    done_at timestamp not null,
    primary key (table_name, location, task)
);

comment on table serving.export_upkeep is 'One row is one Delta table and one task, compaction or vacuum, and when this store last did it';
comment on column serving.export_upkeep.table_name is 'The Delta table';
comment on column serving.export_upkeep.location is 'Where, as in the setting delta_location';
comment on column serving.export_upkeep.task is 'delta_compaction or delta_vacuum';
comment on column serving.export_upkeep.done_at is 'UTC';
