-- one row is one inconsistency in the config tables, with the row to change and how
create or replace view config_problems as
with
entities as (
    from served_entities
),
problems as (
    select
        'endpoints' as table_name,
        e.name as endpoint,
        e.name as row_key,
        null as column_name,
        'endpoint "' || e.name || '" has no served entity' as problem,
        'insert a row into fleming.served_entities with endpoint = ''' || e.name || '''' as remedy
    from endpoints as e
    where not exists (from entities as s where s.endpoint = e.name)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'endpoint',
        'served entity "' || s.name || '" names the endpoint "' || s.endpoint || '", which does not exist',
        'insert it into fleming.endpoints or change the column endpoint'
    from entities as s
    where s.endpoint not in (select name from endpoints)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider',
        'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" names the provider "' || s.provider || '", which does not exist',
        'change the column provider to one of: ' || (select string_agg(name, ', ' order by name) from providers)
    from entities as s
    where s.provider not in (select name from providers)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider',
        'provider "' || s.provider || '" of served entity "' || s.name || '" cannot serve the task ' || e.task || ' of endpoint "' || e.name || '"',
        'change endpoints.task to one of: ' || array_to_string(p.tasks, ', ') || '; or take another provider'
    from entities as s
    inner join endpoints as e on e.name = s.endpoint
    inner join providers as p on p.name = s.provider
    where not list_contains(p.tasks, e.task)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint,
        'traffic_percentage',
        'the traffic percentages of endpoint "' || s.endpoint || '" sum to ' || printf('%g', sum(s.traffic_percentage)) || ', not to 100',
        'update fleming.served_entities so that traffic_percentage sums to 100 over the rows of the endpoint'
    from entities as s
    group by s.endpoint
    having abs(sum(s.traffic_percentage) - 100) > 0.001
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'credential',
        'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" names the credential "' || s.credential || '", which does not exist',
        'insert it into fleming.credentials or change the column credential'
    from entities as s
    where s.credential is not null and s.credential not in (select name from credentials)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'credential',
        'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" has no credential, and provider "' || s.provider || '" needs a credential at its public address',
        'insert one into fleming.credentials and name it in the column credential'
    from entities as s
    inner join providers as p on p.name = s.provider
    where p.needs_credential and s.base_url is null and s.credential is null
        and not regexp_matches(s.provider_config::varchar, '\{\{secrets/|"openai_api_base"')
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'base_url',
        'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" has the base_url "' || s.base_url || '", which is not an http or https address',
        'change the column base_url to an address that begins with http:// or https://'
    from entities as s
    where s.base_url is not null and not regexp_matches(s.base_url, '^https?://[^/\s]+')
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'base_url',
        'the base_url of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" holds a user name or password',
        'take it out of the column base_url and name a credential in the column credential'
    from entities as s
    where s.base_url is not null and regexp_matches(s.base_url, '^https?://[^/]*@')
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'parameters',
        'the parameters of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" are JSON of type ' || json_type(s.parameters),
        'change the column parameters to a JSON object such as {"temperature": 0}'
    from entities as s
    where json_type(s.parameters) <> 'OBJECT'
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" is JSON of type ' || json_type(s.provider_config),
        'change the column provider_config to a JSON object such as {}'
    from entities as s
    where json_type(s.provider_config) <> 'OBJECT'
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" has the key "' || k.key || '", which provider "' || s.provider || '" does not know',
        'remove the key; known are: ' || coalesce(nullif(array_to_string(p.config_keys, ', '), ''), '(none)')
    from entities as s
    inner join providers as p on p.name = s.provider
    cross join unnest(json_keys(s.provider_config)) as k(key)
    where json_type(s.provider_config) = 'OBJECT' and not list_contains(p.config_keys, k.key)
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" holds a secret in the key "' || k.key || '" as plain text',
        'insert the secret''s whereabouts into fleming.credentials and write {{secrets/scope/key}} instead'
    from entities as s
    cross join unnest(json_keys(s.provider_config)) as k(key)
    where json_type(s.provider_config) = 'OBJECT'
        and regexp_matches(k.key, '(api_key|api_token|secret|private_key|password)(_plaintext)?$')
        and not regexp_matches(coalesce(s.provider_config ->> ('/' || k.key), ''), '^\{\{secrets/.+\}\}$')
    union all
    select
        'served_entities',
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" refers to the credential "' || r.reference || '", which does not exist',
        'insert it into fleming.credentials with name = ''' || r.reference || ''''
    from entities as s
    cross join unnest(regexp_extract_all(s.provider_config::varchar, '\{\{secrets/([^}]+)\}\}', 1)) as r(reference)
    where r.reference not in (select name from credentials)
    union all
    select
        'endpoints',
        e.name,
        e.name,
        'default_parameters',
        'the default_parameters of endpoint "' || e.name || '" are JSON of type ' || json_type(e.default_parameters),
        'change the column default_parameters to a JSON object such as {"temperature": 0}'
    from endpoints as e
    where json_type(e.default_parameters) <> 'OBJECT'
    union all
    select
        'credentials',
        null,
        c.name,
        'reference',
        'credential "' || c.name || '" has an empty reference',
        'set the column reference to the variable, path, service/user or command that gives the secret'
    from credentials as c
    where trim(c.reference) = ''
)
select
    table_name,
    row_key,
    column_name,
    problem,
    remedy,
    endpoint
from problems
order by table_name, row_key, column_name nulls first;

comment on view config_problems is 'One row is one inconsistency in the config tables: the row and column to change and how. A call that meets it fails with the same words';
comment on column config_problems.table_name is 'Table in fleming';
comment on column config_problems.row_key is 'The row: its name, or endpoint/name for served_entities';
comment on column config_problems.column_name is 'The column to change; NULL where a row is missing';
comment on column config_problems.problem is 'What is wrong, with the value';
comment on column config_problems.remedy is 'What to do, and what would be accepted';
comment on column config_problems.endpoint is 'The endpoint whose calls fail because of it; NULL where none does';
