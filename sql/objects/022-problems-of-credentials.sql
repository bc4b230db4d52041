create or replace macro __problems_of_credentials() as table
select
    'credentials' as table_name,
    c.name as row_key,
    'reference' as column_name,
    'credential "' || c.name || '" has an empty reference' as problem,
    'set the column reference to the variable, path, service/user or command that gives the secret' as remedy,
    null::varchar as endpoint,
    []::varchar[] as stops
from credentials as c
where trim(c.reference) = ''
union all
select
    'credentials',
    c.name,
    'reference',
    'the reference of credential "' || c.name || '" is not the name of an environment variable',
    'set the column reference to the variable''s name: letters, digits and underscores. If it holds the key itself, take it out, put it into a variable and replace the key',
    null,
    []
from credentials as c
where c.source = 'env' and trim(c.reference) <> '' and not regexp_full_match(c.reference, '[A-Za-z_][A-Za-z0-9_]*');
