-- A wrong entity stops every endpoint with a guardrail that looks for personal data.
create or replace macro __problems_of_pii_entities() as table
with
stopped as (
    select list(distinct e.name order by e.name) as stops
    from endpoints as e
    inner join guardrails as g on g.endpoint is null or g.endpoint = e.name
    where g.enabled and g.behavior <> 'none' and g.kind = 'pii'
),
checked as materialized (
    select
        name,
        __fleming_config_check(
            'pii_entity',
            to_json({'name': name, 'pattern': pattern, 'validator': validator, 'context_words': context_words})::varchar,
            null
        ) as found
    from pii_entities
    where enabled
)
select
    'pii_entities' as table_name,
    c.name as row_key,
    c.found ->> '$.column' as column_name,
    'the entity "' || c.name || '" of pii_entities: ' || (c.found ->> '$.problem') as problem,
    c.found ->> '$.remedy' as remedy,
    null::varchar as endpoint,
    coalesce(s.stops, []) as stops
from checked as c
cross join stopped as s
where c.found is not null;
