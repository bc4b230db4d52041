-- A wrong durability or on_log_failure stops every endpoint, since nobody can say what is to become of its records.
-- The other settings have no part in calls.
create or replace macro __problems_of_settings() as table
with
known as (
    from __settings()
),
-- one row is one setting that does not exist
unknown as (
    select
        s.name as name,
        list(k.name order by levenshtein(lower(s.name), k.name), k.name) as nearest,
        min(levenshtein(lower(s.name), k.name)) <= greatest(2, length(s.name) // 3) as is_near
    from settings as s
    cross join known as k
    group by s.name
    having not list_contains(list(k.name), s.name)
),
wrong as (
    select
        s.name as name,
        k.default_value as default_value,
        case
            -- what deltalake cannot take or takes for something else, and a home that is not that of each process
            when s.name = 'delta_location' then trim(s.value) = '' or contains(s.value, chr(0))
                or regexp_matches(s.value, '^\s*~|[\[\]\\]|%[0-9a-fA-F]{2}')
            when k.kind = 'text' then trim(s.value) = ''
            -- Flat JSON, as strict as its reader: DuckDB's own would let trailing commas pass.
            when k.kind = 'json' then not regexp_full_match(
                s.value,
                '\s*\{(\s*"(?:[^"\\\x00-\x1f]|\\.)*"\s*:\s*"(?:[^"\\\x00-\x1f]|\\.)*"\s*(,\s*"(?:[^"\\\x00-\x1f]|\\.)*"\s*:\s*"(?:[^"\\\x00-\x1f]|\\.)*"\s*)*|\s*)\}\s*'
            ) or not json_valid(s.value)
            when s.name = 'delta_vacuum_hours' then not coalesce(  -- what deltalake takes
                try_cast(s.value as double) = 0 or (try_cast(s.value as double) >= 168 and try_cast(s.value as double) < 'inf'),
                false
            )
            when s.name = 'retention_days' then not coalesce(try_cast(s.value as double) between 1 and 36500, false)
            when s.name = 'retention_rows' then not coalesce(try_cast(s.value as double) between 1 and 1e15, false)
            when k.kind like 'number>=%' then not coalesce(
                try_cast(s.value as double) >= k.kind[9:]::double and try_cast(s.value as double) < 'inf', false
            )
            else not list_contains(string_split(k.kind, '|'), s.value)
        end as is_wrong,
        -- Options and URLs may hold a key that belongs into fleming.credentials, so they are not repeated.
        if(k.kind = 'json' or contains(s.value, '://'), '', ' is "' || left(s.value, 60) || '",') as shown,
        case
            when s.name = 'delta_location' and trim(s.value) <> ''
                then 'a folder or URL without [, ], \, %XX, NUL and a ~ at its beginning'
            when k.kind = 'text' then 'a text that is not empty'
            when k.kind = 'json' then 'a JSON object with texts as values'
            when s.name = 'delta_vacuum_hours' then '0, or a number of at least 168'
            when s.name = 'retention_days' then 'a number of at least 1 and at most 36500'
            when s.name = 'retention_rows' then 'a number of at least 1 and at most 1e15'
            when k.kind like 'number>=%' then 'a number of at least ' || k.kind[9:]
            else 'one of ' || replace(k.kind, '|', ', ')
        end as accepted
    from settings as s
    inner join known as k on k.name = s.name
    where s.value is not null
)
select
    'settings' as table_name,
    name as row_key,
    'name' as column_name,
    'there is no setting "' || name || '"' as problem,
    if(
        is_near,
        'set the column name to "' || nearest[1] || '", or delete the row',
        'delete the row, or set the column name to one of ' || list_aggregate(list_sort(nearest), 'string_agg', ', ')
    ) as remedy,
    null::varchar as endpoint,
    []::varchar[] as stops
from unknown
union all
select
    'settings',
    name,
    'value',
    'the setting "' || name || '"' || if(shown = '', ' is', shown) || ' not ' || accepted,
    'set the column value to ' || accepted || ', or to NULL for '
        || if(default_value is null, 'none', 'the default, ' || default_value),
    null,
    if(name in ('durability', 'on_log_failure'), coalesce((select list(e.name order by e.name) from endpoints as e), []), [])
from wrong
where is_wrong;
