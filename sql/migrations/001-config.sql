-- The configuration of the gateway. People edit these tables with plain insert, update and delete.

-- one row is one named entry point: what `ai_query` takes as its first argument
create table endpoints (
    name varchar primary key check (name <> ''),
    task varchar not null default 'llm/v1/chat' check (task in (
        'llm/v1/chat', 'llm/v1/completions', 'llm/v1/embeddings', 'llm/v1/responses',
        'agent/v1/chat', 'agent/v1/responses', 'custom'
    )),
    description varchar,
    enabled boolean not null default true,
    fallback_enabled boolean not null default true,
    payload_logging boolean not null default true,
    usage_tracking boolean not null default true,
    cache_ttl_seconds bigint default 86400 check (cache_ttl_seconds >= 0),
    max_concurrency integer not null default 128 check (max_concurrency between 1 and 100000),
    timeout_ms integer not null default 120000 check (timeout_ms > 0),
    connect_timeout_ms integer not null default 10000 check (connect_timeout_ms > 0),
    max_retries integer not null default 4 check (max_retries between 0 and 100),
    max_response_bytes bigint not null default 33554432 check (max_response_bytes > 0),
    max_logged_bytes bigint not null default 1048576 check (max_logged_bytes >= 0),
    default_parameters json not null default '{}',
    guardrails_fail_open boolean not null default false,
    tags json not null default '{}'
);

comment on table endpoints is 'One row is one endpoint: the name that ai_query takes, its task and its limits';
comment on column endpoints.task is 'llm/v1/chat, llm/v1/completions, llm/v1/embeddings, llm/v1/responses, agent/v1/chat, agent/v1/responses or custom';
comment on column endpoints.enabled is 'false refuses all calls';
comment on column endpoints.fallback_enabled is 'Reserved for fallbacks: whether another served entity is tried when one fails';
comment on column endpoints.payload_logging is 'false keeps the row of a call in serving.inference without its bodies';
comment on column endpoints.usage_tracking is 'false keeps calls out of serving.endpoint_usage';
comment on column endpoints.cache_ttl_seconds is 'How long an answer may be reused for an identical request; NULL switches reuse off';
comment on column endpoints.max_concurrency is 'Upstream requests under way at once';
comment on column endpoints.timeout_ms is 'For a whole call with its retries, counted from its first attempt';
comment on column endpoints.connect_timeout_ms is 'For opening a connection, within timeout_ms';
comment on column endpoints.max_retries is 'Further attempts after the first, on 408, 425, 429, 5xx and connections that could not be opened';
comment on column endpoints.max_response_bytes is 'A longer answer is refused while it is being read';
comment on column endpoints.max_logged_bytes is 'A longer body is left out of the log, with MAX_REQUEST_SIZE_EXCEEDED or MAX_RESPONSE_SIZE_EXCEEDED';
comment on column endpoints.default_parameters is 'JSON object of model parameters; modelParameters of a call win';
comment on column endpoints.guardrails_fail_open is 'Reserved for guardrails: whether a broken one lets calls pass';
comment on column endpoints.tags is 'JSON object of your own labels';

-- one row is one model that serves an endpoint
create table served_entities (
    endpoint varchar not null,
    name varchar not null check (name <> ''),
    provider varchar not null,
    model varchar not null default '',
    base_url varchar,
    credential varchar,
    traffic_percentage double not null default 100 check (traffic_percentage between 0 and 100),
    position integer not null default 1,
    parameters json not null default '{}',
    provider_config json not null default '{}',
    primary key (endpoint, name)
);

comment on table served_entities is 'One row is one model that serves an endpoint';
comment on column served_entities.endpoint is 'Name in endpoints';
comment on column served_entities.provider is 'Name in providers: the wire format that the server speaks';
comment on column served_entities.model is 'The model''s name at its provider';
comment on column served_entities.base_url is 'Where the provider answers; NULL is its public address';
comment on column served_entities.credential is 'Name in credentials; NULL for servers that ask for none';
comment on column served_entities.traffic_percentage is 'Share of the calls; those of one endpoint sum to 100; an entity with 0 gets none';
comment on column served_entities.position is 'Order of the entities, lowest first; reserved for fallbacks';
comment on column served_entities.parameters is 'JSON object sent with each request, beneath the endpoint''s and the call''s own';
comment on column served_entities.provider_config is 'JSON object of what only this provider knows; secrets only as {{secrets/scope/key}}';

-- one row says where a secret is found; the secret itself is never stored
create table credentials (
    name varchar primary key check (name <> ''),
    source varchar not null default 'env' check (source in ('env', 'file', 'keyring', 'command')),
    reference varchar not null
);

comment on table credentials is 'One row says where a secret is found; the secret itself is never stored';
comment on column credentials.name is 'What served_entities.credential names; {{secrets/scope/key}} is the credential scope/key';
comment on column credentials.source is 'env (a variable), file (a path), keyring (service/user) or command (its standard output)';
comment on column credentials.reference is 'The variable''s name, the path, service/user or the command line';

-- one row is one wire format that this version of fleming-sql speaks; rewritten at every attach
create table providers (
    name varchar primary key,
    tasks varchar[] not null,
    description varchar not null,
    config_keys varchar[] not null,
    needs_credential boolean not null
);

comment on table providers is 'One row is one wire format that this version of fleming-sql speaks; rewritten at every attach';
comment on column providers.config_keys is 'Keys that served_entities.provider_config may hold';
comment on column providers.needs_credential is 'Whether its public address, base_url NULL, answers nobody without a credential';
