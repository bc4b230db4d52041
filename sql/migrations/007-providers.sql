-- Providers that are known by name: where they answer, and where they differ from others.

alter table providers add column base_url varchar;
alter table providers add column credential_variable varchar;
alter table providers add column quirks json default '{}';
alter table providers add column price_list varchar;
alter table providers add column documentation_url varchar;

comment on table providers is 'One row is one provider that this version of fleming-sql knows: a wire format, or a server that speaks OpenAI''s and is known by name; rewritten at every attach';
comment on column providers.name is 'What served_entities.provider says';
comment on column providers.tasks is 'What endpoints.task may be for it';
comment on column providers.description is 'What it is';
comment on column providers.base_url is 'Where it answers if served_entities.base_url is NULL; a name in braces is a key of provider_config that must be set; NULL depends on the provider_config';
comment on column providers.credential_variable is 'The environment variable that usually holds its key';
comment on column providers.quirks is 'Where it differs from OpenAI; a quirk whose name is in config_keys is the default of that key';
comment on column providers.price_list is 'Its name among the list prices in model_prices; NULL is its own';
comment on column providers.documentation_url is 'Where its wire format is documented';
