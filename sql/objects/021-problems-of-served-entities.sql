create or replace macro __quoted(text) as '''' || replace(text, '''', '''''') || '''';

-- The provider whose name is the likest to one that is none.
create or replace macro __nearest_providers() as table
select
    s.provider as given,
    arg_max(p.name, jaro_winkler_similarity(p.name, lower(s.provider))) as provider
from (select distinct provider from served_entities) as s
inner join providers as p on jaro_winkler_similarity(p.name, lower(s.provider)) > 0.8
where s.provider not in (select name from providers)
group by s.provider;

create or replace macro __problems_of_served_entities() as table
with
-- found: what the provider says of its settings, the address and the login; materialized, so that it is asked once
checked as materialized (
    select
        s.*,
        case
            when list_contains(p.tasks, e.task) then __fleming_config_check(
                'served_entity',
                to_json({
                    'task': e.task,
                    'endpoint': s.endpoint,
                    'name': s.name,
                    'provider': s.provider,
                    'model': s.model,
                    'base_url': s.base_url,
                    'credential': s.credential,
                    'provider_config': s.provider_config::varchar
                })::varchar,
                null
            )
        end as found
    from served_entities as s
    left join endpoints as e on e.name = s.endpoint
    left join providers as p on p.name = s.provider
),
breaches as (
    select
        s.endpoint as endpoint,
        s.endpoint || '/' || s.name as row_key,
        unnest([
            __rule(
                'endpoint',
                e.name is null,
                'served entity "' || s.name || '" names the endpoint "' || s.endpoint || '", which does not exist',
                'insert it into fleming.endpoints or change the column endpoint'
            ),
            __rule(
                'provider',
                p.name is null,
                'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" names the provider "' || s.provider || '", which does not exist',
                'change the column provider' || coalesce(' (did you mean "' || near.provider || '"?)', '')
                    || '; fleming.providers has all names'
            ),
            __rule(
                'provider',
                not list_contains(p.tasks, e.task),
                'provider "' || s.provider || '" of served entity "' || s.name || '" cannot serve the task ' || e.task || ' of endpoint "' || e.name || '"',
                'change endpoints.task to one of: ' || array_to_string(p.tasks, ', ') || '; or take another provider'
            ),
            __rule(
                'traffic_percentage',
                s.traffic_percentage not between 0 and 100,
                'the traffic_percentage of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" is '
                    || printf('%g', s.traffic_percentage) || ', not between 0 and 100',
                'set the column traffic_percentage to a number from 0 to 100; those of one endpoint sum to 100'
            ),
            __rule(
                'credential',
                s.credential is not null and c.name is null,
                'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" names the credential "' || s.credential || '", which does not exist',
                'insert it into fleming.credentials or change the column credential'
            ),
            __rule(
                'credential',
                p.needs_credential and s.base_url is null and s.credential is null
                    and not regexp_matches(s.provider_config::varchar, '\{\{secrets/|"openai_api_base"'),
                'served entity "' || s.name || '" of endpoint "' || s.endpoint || '" has no credential, and provider "' || s.provider || '" needs a credential at its public address',
                if(
                    p.credential_variable is null,
                    'insert one into fleming.credentials and name it in the column credential',
                    'insert into fleming.credentials (name, source, reference) values (''' || p.name || ''', ''env'', '''
                        || p.credential_variable || '''); update fleming.served_entities set credential = ''' || p.name
                        || ''' where endpoint = ' || __quoted(s.endpoint) || ' and name = ' || __quoted(s.name)
                )
            ),
            __rule(
                'parameters',
                json_type(s.parameters) <> 'OBJECT',
                'the parameters of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" are JSON of type ' || json_type(s.parameters),
                'change the column parameters to a JSON object such as {"temperature": 0}'
            ),
            __rule(
                'provider_config',
                json_type(s.provider_config) <> 'OBJECT',
                'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" is JSON of type ' || json_type(s.provider_config),
                'change the column provider_config to a JSON object such as {}'
            ),
            __rule(
                s.found ->> '$.column',
                s.found is not null,
                'served entity "' || s.name || '" of endpoint "' || s.endpoint || '": ' || (s.found ->> '$.problem'),
                s.found ->> '$.remedy'
            )
        ]) as rule
    from checked as s
    left join endpoints as e on e.name = s.endpoint
    left join providers as p on p.name = s.provider
    left join __nearest_providers() as near on near.given = s.provider
    left join credentials as c on c.name = s.credential
),
problems as (
    select
        endpoint,
        row_key,
        rule.column_name as column_name,
        rule.problem as problem,
        rule.remedy as remedy
    from breaches
    where rule.wrong
    union all
    select
        s.endpoint,
        s.endpoint,
        'traffic_percentage',
        'the traffic percentages of endpoint "' || s.endpoint || '" sum to ' || printf('%g', sum(s.traffic_percentage)) || ', not to 100',
        'update fleming.served_entities so that traffic_percentage sums to 100 over the rows of the endpoint'
    from served_entities as s
    group by s.endpoint
    having bool_and(s.traffic_percentage between 0 and 100) and abs(sum(s.traffic_percentage) - 100) > 0.001
    union all
    select
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" has the key "' || k.key || '", which provider "' || s.provider || '" does not know',
        'remove the key; known are: ' || coalesce(nullif(array_to_string(p.config_keys, ', '), ''), '(none)')
    from served_entities as s
    inner join providers as p on p.name = s.provider
    cross join unnest(json_keys(s.provider_config)) as k(key)
    where json_type(s.provider_config) = 'OBJECT' and not list_contains(p.config_keys, k.key)
    union all
    select
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" holds a secret in the key "' || substr(k.fullkey, 3) || '" as plain text',
        'insert the secret''s whereabouts into fleming.credentials and write {{secrets/scope/key}} instead'
    from served_entities as s
    cross join json_tree(s.provider_config) as k
    where json_type(s.provider_config) = 'OBJECT'
        and (
            regexp_matches(k.key, '(api_key|access_key|private_key|secret|password|token)(_plaintext)?$')
            or regexp_matches(k.fullkey, '^\$\.api_key_auth\.value(_plaintext)?$')
            or (k.fullkey in ('$.api_key_auth', '$.bearer_token_auth') and k.type = 'VARCHAR')
        )
        and not regexp_matches(coalesce(k.value ->> '$', ''), '^\{\{secrets/.+\}\}$')
        and k.type <> 'NULL'
    union all
    select
        s.endpoint,
        s.endpoint || '/' || s.name,
        'provider_config',
        'the provider_config of served entity "' || s.name || '" of endpoint "' || s.endpoint || '" refers to the credential "' || r.reference || '", which does not exist',
        'insert it into fleming.credentials with name = ''' || r.reference || ''''
    from served_entities as s
    cross join unnest(regexp_extract_all(s.provider_config::varchar, '\{\{secrets/([^}]+)\}\}', 1)) as r(reference)
    where r.reference not in (select name from credentials)
)
select
    'served_entities' as table_name,
    row_key,
    column_name,
    problem,
    remedy,
    endpoint,
    [endpoint] as stops
from problems;
