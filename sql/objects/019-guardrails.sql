-- What guardrails go by.

-- What errors and the log call a guardrail without a name, such as input-pii-1.
create or replace macro __guardrail_name(name, phase, kind, rank) as
    coalesce(nullif(name, ''), phase || '-' || kind || '-' || rank);

-- The macros of this store that a SQL policy may use: not those of fleming-sql itself, and none that there are several
-- of by the same name. To look for them takes milliseconds.
create or replace macro __macros() as table
select
    function_name as name,
    any_value(parameters) as parameters,
    any_value(macro_definition) as definition
from duckdb_functions()
where database_name = 'fleming'
    and schema_name = 'main'
    and function_type = 'macro'
    and not internal
    and not starts_with(function_name, '__')
    and function_name not in ('ai_query', 'ai_cache_clear')
group by function_name
having count(*) = 1
order by function_name;

-- The same as one JSON array, as __problems_about_guardrails takes them.
create or replace macro __macros_as_json() as (select coalesce(to_json(list(m)), '[]')::varchar from __macros() as m);

-- one row is one form of personal data that the guardrail kind pii finds
create or replace view pii_entities_in_effect as
select
    name,
    description,
    'built-in' as source,
    null::varchar as pattern,
    validator,
    context_words
from built_in_pii_entities
union all
select
    name,
    description,
    'pii_entities' as source,
    pattern,
    validator,
    context_words
from pii_entities
where enabled
order by name;

comment on view pii_entities_in_effect is 'One row is one form of personal data that the guardrail kind pii finds: built in, or in pii_entities';
comment on column pii_entities_in_effect.name is 'What entities in a guardrail''s config lists; it is masked as <NAME>';
comment on column pii_entities_in_effect.description is 'What it is';
comment on column pii_entities_in_effect.source is 'built-in, or pii_entities for a row of that table';
comment on column pii_entities_in_effect.pattern is 'As in pii_entities; NULL for what is built in';
comment on column pii_entities_in_effect.validator is 'Check that a match has to pass; NULL is none';
comment on column pii_entities_in_effect.context_words is 'Words of which one has to stand near; an empty list needs none';
