-- Every setting there is. kind says what a value may be: one of a few words ('a|b'), a number of at least so much
-- ('number>=0', NULL for none), text, or a JSON object.
create or replace macro __settings() as table
select
    unnest(known, recursive := true)
from (
    values
    ([
        {
            'name': 'durability',
            'default_value': 'process',
            'kind': 'process|power|off',
            'description': 'What a record of a call outlives before the result is handed out: process (the process killed), power (the machine without power) or off (neither: records are written within a second)'
        },
        {
            'name': 'on_log_failure',
            'default_value': 'fail',
            'kind': 'fail|continue',
            'description': 'What becomes of calls that cannot be logged: fail, or continue, unlogged, with a warning'
        },
        {
            'name': 'retention_days',
            'default_value': null,
            'kind': 'number>=1',
            'description': 'Calls older than so many days are removed from the log; NULL keeps them'
        },
        {
            'name': 'retention_rows',
            'default_value': null,
            'kind': 'number>=1',
            'description': 'The oldest calls beyond so many are removed from the log; NULL keeps them'
        },
        {
            'name': 'maintenance_minutes',
            'default_value': '10',
            'kind': 'number>=0.01',
            'description': 'How often the log is looked through for what retention removes, and its file compacted'
        },
        {
            'name': 'delta_location',
            'default_value': null,
            'kind': 'text',
            'description': 'Folder or URL (s3://, az://, gs://) that the log is exported to as Delta tables; NULL exports nothing'
        },
        {
            'name': 'delta_storage_options',
            'default_value': '{}',
            'kind': 'json',
            'description': 'JSON object of options for that place, as the package deltalake takes them; secrets as {{secrets/scope/key}}'
        },
        {
            'name': 'delta_every_seconds',
            'default_value': '60',
            'kind': 'number>=0.1',
            'description': 'How often new records are exported'
        },
        {
            'name': 'delta_compact_hours',
            'default_value': '24',
            'kind': 'number>=0',
            'description': 'How often the small files of the Delta tables are made into large ones; 0 never'
        },
        {
            'name': 'delta_vacuum_hours',
            'default_value': '168',
            'kind': 'number>=0',
            'description': 'Files that compaction replaced are removed after so many hours; 0 never'
        }
    ])
) as t (known);

-- one row is one setting as it holds now
create or replace view settings_in_effect as
select
    k.name as name,
    coalesce(s.value, k.default_value) as value,
    k.default_value as default_value,
    k.description as description
from __settings() as k
left join settings as s on s.name = k.name
order by name;

comment on view settings_in_effect is 'One row is one setting as it holds now; change it with a row in settings';
comment on column settings_in_effect.name is 'What settings.name names';
comment on column settings_in_effect.value is 'As it holds';
comment on column settings_in_effect.default_value is 'What holds without a row in settings, or with NULL there';
comment on column settings_in_effect.description is 'What it does';
