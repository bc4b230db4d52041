-- What may go to a model and what may come back.

-- one row is one guardrail: something that looks at the requests or the answers of an endpoint
create table guardrails (
    endpoint varchar,
    phase varchar not null default 'input',
    rank integer not null default 1,
    kind varchar not null,
    behavior varchar not null default 'block',
    config json not null default '{}',
    on_error varchar,
    name varchar,
    timeout_ms bigint not null default 30000,
    enabled boolean not null default true
);

comment on table guardrails is 'One row is one guardrail: something that looks at the requests or the answers of an endpoint, and refuses, masks or writes down what must not pass';
comment on column guardrails.endpoint is 'Name in endpoints; NULL is every endpoint';
comment on column guardrails.phase is 'input looks at the request before it is sent, output at the answer before it is given';
comment on column guardrails.rank is 'Lowest first within a phase; what one masks, those after it do not see';
comment on column guardrails.kind is 'How it decides: a name in guardrail_kinds';
comment on column guardrails.behavior is 'block refuses the call, mask takes what was found out of the text, log only writes it down (a dry run), none switches it off';
comment on column guardrails.config is 'JSON object with what the kind goes by: config_schema of guardrail_kinds';
comment on column guardrails.on_error is 'What a call does when the guardrail itself fails or takes too long: block, allow, or NULL for what the column guardrails_fail_open of its endpoint says, which is block as long as nobody changes it';
comment on column guardrails.name is 'What errors and the log call it; NULL makes one of phase, kind and rank, such as input-pii-1';
comment on column guardrails.timeout_ms is 'How long it may take over a call, waiting for its turn left out; beyond, it has failed';
comment on column guardrails.enabled is 'false switches it off';

-- one row is one form of personal data that the kind pii finds besides the built-in ones
create table pii_entities (
    name varchar primary key,
    pattern varchar not null,
    validator varchar,
    context_words varchar[] not null default [],
    description varchar,
    enabled boolean not null default true
);

comment on table pii_entities is 'One row is one form of personal data that the guardrail kind pii finds besides those in built_in_pii_entities';
comment on column pii_entities.name is 'Such as EMPLOYEE_ID; it is masked as <EMPLOYEE_ID>';
comment on column pii_entities.pattern is 'Regular expression in the syntax of RE2';
comment on column pii_entities.validator is 'Check that what the pattern matched has to pass too, such as luhn or iban: a validator in built_in_pii_entities; NULL is none';
comment on column pii_entities.context_words is 'Whole words of which one has to stand near, in any case; a star stands for any letters, as in employee*; an empty list needs none';
comment on column pii_entities.description is 'For people';
comment on column pii_entities.enabled is 'false leaves it out';

-- one row is one kind of guardrail that this version of fleming-sql knows; rewritten at every attach
create table guardrail_kinds (
    kind varchar primary key,
    description varchar not null,
    phases varchar[] not null,
    behaviors varchar[] not null,
    asks_tasks varchar[] not null,
    config_schema json not null
);

comment on table guardrail_kinds is 'One row is one kind of guardrail that this version of fleming-sql knows; rewritten at every attach';
comment on column guardrail_kinds.kind is 'What guardrails.kind says';
comment on column guardrail_kinds.description is 'What it looks for';
comment on column guardrail_kinds.phases is 'What guardrails.phase may be';
comment on column guardrail_kinds.behaviors is 'What guardrails.behavior may be, besides none';
comment on column guardrail_kinds.asks_tasks is 'Tasks that the endpoint in its config may be for; empty for a kind that asks no model';
comment on column guardrail_kinds.config_schema is 'JSON Schema of guardrails.config';

-- one row is one form of personal data that the kind pii finds by itself; rewritten at every attach
create table built_in_pii_entities (
    name varchar primary key,
    description varchar not null,
    validator varchar,
    context_words varchar[] not null
);

comment on table built_in_pii_entities is 'One row is one form of personal data that the guardrail kind pii finds by itself; rewritten at every attach';
comment on column built_in_pii_entities.name is 'What entities in a guardrail''s config lists; it is masked as <NAME>';
comment on column built_in_pii_entities.description is 'What it is';
comment on column built_in_pii_entities.validator is 'Check that a match has to pass; NULL is none';
comment on column built_in_pii_entities.context_words is 'Words of which one has to stand near; an empty list needs none';

alter table endpoints add column log_original boolean default false;
comment on column endpoints.log_original is 'Whether the log keeps requests as they were asked and answers as they came, before guardrails masked them; with false it never has what they took out';
comment on column endpoints.guardrails_fail_open is 'What a guardrail whose on_error is NULL does when it fails: true lets the call pass, false blocks it';

alter table serving.calls add column guardrail varchar;
alter table serving.calls add column guarded_request_id varchar;
