-- Who may call, how much, and where calls go. Wrong values in these tables and columns are not refused when they are
-- written: they are rows of config_problems, and the calls that would meet them fail with the same words.

-- The same table with more columns; DuckDB 1.5 cannot add some that are NOT NULL to a table with rows.
create table governed_endpoints (
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
    tags json not null default '{}',
    routing varchar not null default 'weighted',
    sticky_key varchar,
    fallback_on varchar[] not null default [],
    retry_on_timeout boolean not null default false,
    attempt_timeout_ms integer,
    hedge_after_ms integer,
    hedge_percentile double,
    adaptive_concurrency boolean not null default true,
    breaker_failure_share double not null default 0.5,
    breaker_min_calls integer not null default 20,
    breaker_window_ms integer not null default 10000,
    breaker_open_ms integer not null default 5000
);
insert into governed_endpoints by name from endpoints;
drop table endpoints;
alter table governed_endpoints rename to endpoints;

comment on table endpoints is 'One row is one endpoint: the name that ai_query takes, its task and its limits';
comment on column endpoints.task is 'llm/v1/chat, llm/v1/completions, llm/v1/embeddings, llm/v1/responses, agent/v1/chat, agent/v1/responses or custom';
comment on column endpoints.enabled is 'false refuses all calls';
comment on column endpoints.payload_logging is 'false keeps the row of a call in serving.inference without its bodies';
comment on column endpoints.usage_tracking is 'false keeps calls out of serving.endpoint_usage';
comment on column endpoints.cache_ttl_seconds is 'How long an answer may be reused for an identical request; NULL switches reuse off';
comment on column endpoints.connect_timeout_ms is 'For opening a connection, within timeout_ms';
comment on column endpoints.max_response_bytes is 'A longer answer is refused while it is being read';
comment on column endpoints.max_logged_bytes is 'A longer body is left out of the log, with MAX_REQUEST_SIZE_EXCEEDED or MAX_RESPONSE_SIZE_EXCEEDED';
comment on column endpoints.default_parameters is 'JSON object of model parameters; modelParameters of a call win';
comment on column endpoints.guardrails_fail_open is 'Reserved for guardrails: whether a broken one lets calls pass';
comment on column endpoints.tags is 'JSON object of your own labels';
comment on column endpoints.fallback_enabled is 'Whether the other served entities are tried, in the order of their position, when one fails';
comment on column endpoints.timeout_ms is 'For a whole call with its retries and fallbacks, counted from its first attempt; waiting for a place or a rate limit does not count';
comment on column endpoints.max_concurrency is 'Upstream requests under way at once, over all served entities';
comment on column endpoints.max_retries is 'Further attempts after the first, retries and fallbacks together; each served entity gets one in any case';
comment on column endpoints.routing is 'Which served entity is asked first: weighted (by traffic_percentage), sticky, priority (by position), least_latency or least_cost';
comment on column endpoints.sticky_key is 'For sticky: the key of usageContext whose value stays on one served entity; NULL is the requester';
comment on column endpoints.fallback_on is 'Refusals that also go on to the next served entity: context_window, content_policy';
comment on column endpoints.retry_on_timeout is 'Whether a request that may have been billed (no answer in time, answer cut off or unreadable) is sent again to the same served entity';
comment on column endpoints.attempt_timeout_ms is 'For one attempt, within timeout_ms; NULL shares the time that is left with the attempts that may follow';
comment on column endpoints.hedge_after_ms is 'An answer that takes longer is asked for a second time, and the first to come counts; NULL is off';
comment on column endpoints.hedge_percentile is 'The same, after the time within which this percentage of the latest answers came (50 to 99.9); NULL is off';
comment on column endpoints.adaptive_concurrency is 'Whether each served entity gets as many requests at once as it has been seen to take, up to max_concurrency';
comment on column endpoints.breaker_failure_share is 'Share of failures within the window from which a served entity is left out, above 0 and up to 1';
comment on column endpoints.breaker_min_calls is 'Fewer answers and failures within the window than that leave it in';
comment on column endpoints.breaker_window_ms is 'How far back failures count';
comment on column endpoints.breaker_open_ms is 'How long it is left out before one call tries it again';

-- The same table with the column enabled, and without the check on traffic_percentage.
create table governed_entities (
    endpoint varchar not null,
    name varchar not null check (name <> ''),
    provider varchar not null,
    model varchar not null default '',
    base_url varchar,
    credential varchar,
    traffic_percentage double not null default 100,
    position integer not null default 1,
    parameters json not null default '{}',
    provider_config json not null default '{}',
    enabled boolean not null default true,
    primary key (endpoint, name)
);
insert into governed_entities by name from served_entities;
drop table served_entities;
alter table governed_entities rename to served_entities;

comment on table served_entities is 'One row is one model that serves an endpoint';
comment on column served_entities.endpoint is 'Name in endpoints';
comment on column served_entities.provider is 'Name in providers: the wire format that the server speaks';
comment on column served_entities.model is 'The model''s name at its provider';
comment on column served_entities.base_url is 'Where the provider answers; NULL is its public address';
comment on column served_entities.credential is 'Name in credentials; NULL for servers that ask for none';
comment on column served_entities.traffic_percentage is 'Share of the calls, 0 to 100; those of one endpoint sum to 100; an entity with 0 is for fallback only';
comment on column served_entities.position is 'Order in which the entities are tried after a failure, lowest first; for the routing priority also before';
comment on column served_entities.parameters is 'JSON object sent with each request, beneath the endpoint''s and the call''s own';
comment on column served_entities.provider_config is 'JSON object of what only this provider knows; secrets only as {{secrets/scope/key}}';

comment on column served_entities.enabled is 'false takes it out of service: it is asked for nothing, and the others share its traffic as their percentages are to each other';

-- one row is one user, service principal or group that permissions and rate limits may name
create table principals (
    name varchar primary key check (name <> ''),
    type varchar not null default 'user',
    enabled boolean not null default true,
    description varchar
);

comment on table principals is 'One row is one user, service principal or group that permissions and rate limits may name';
comment on column principals.type is 'user, service_principal or group';
comment on column principals.enabled is 'false refuses every call of a user or service principal, and makes a group grant nothing';

-- one row puts one member into one group
create table group_members (
    group_name varchar not null,
    member varchar not null,
    primary key (group_name, member)
);

comment on table group_members is 'One row puts one member into one group; the members of a group that is a member are members too';
comment on column group_members.group_name is 'A group in principals';
comment on column group_members.member is 'Any name in principals';

-- one row lets one principal use one endpoint
create table permissions (
    endpoint varchar not null,
    principal_type varchar not null default 'user',
    principal varchar not null,
    privilege varchar not null default 'CAN_QUERY'
);

comment on table permissions is 'One row lets one principal use one endpoint; an endpoint without a row is open to all, one with rows is closed to everybody else';
comment on column permissions.endpoint is 'Name in endpoints';
comment on column permissions.principal_type is 'user, service_principal or group, as in principals.type';
comment on column permissions.principal is 'Name in principals';
comment on column permissions.privilege is 'CAN_QUERY and CAN_MANAGE let calls through; CAN_VIEW does not';

-- one row is one limit on how much of an endpoint may be used
create table rate_limits (
    endpoint varchar not null,
    key varchar not null default 'endpoint',
    principal varchar,
    calls bigint,
    tokens bigint,
    renewal_period varchar not null default 'minute',
    on_exceeded varchar not null default 'wait',
    max_wait_ms bigint
);

comment on table rate_limits is 'One row is one limit on the calls or the tokens of an endpoint in any minute or hour; at most 20 per endpoint, 5 of them for groups';
comment on column rate_limits.endpoint is 'Name in endpoints';
comment on column rate_limits.key is 'Whose use is counted: endpoint (everybody''s together), user, user_group or service_principal';
comment on column rate_limits.principal is 'Name in principals; NULL with the key user is the limit of each user who has no other, and NULL for the key endpoint';
comment on column rate_limits.calls is 'Calls in any period; either calls or tokens';
comment on column rate_limits.tokens is 'Input and output tokens in any period; either calls or tokens';
comment on column rate_limits.renewal_period is 'minute or hour: a window that slides, not one that begins anew';
comment on column rate_limits.on_exceeded is 'wait paces the calls, reject fails them with status 429';
comment on column rate_limits.max_wait_ms is 'With wait: how long a call that is the next of its statement may wait before it is refused; NULL is as long as it takes';

-- one row is the price of a model from a time on
create table model_prices (
    provider varchar not null,
    model varchar not null,
    input_per_million double not null,
    output_per_million double not null,
    cached_input_per_million double,
    valid_from timestamp not null default '1970-01-01',
    primary key (provider, model, valid_from)
);

comment on table model_prices is 'One row is the price of a model from a time on; the routing least_cost goes by it';
comment on column model_prices.provider is 'As in served_entities.provider';
comment on column model_prices.model is 'As in served_entities.model';
comment on column model_prices.input_per_million is 'US dollars for a million input tokens';
comment on column model_prices.output_per_million is 'US dollars for a million output tokens';
comment on column model_prices.cached_input_per_million is 'US dollars for a million input tokens that come from the provider''s prompt cache; NULL is input_per_million';
comment on column model_prices.valid_from is 'UTC';

alter table serving.calls add column limit_wait_ms double default 0;
alter table serving.calls add column attempts.element.after_error_code varchar;
