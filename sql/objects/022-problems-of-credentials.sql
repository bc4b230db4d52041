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
where trim(c.reference) = '';
