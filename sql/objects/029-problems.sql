-- distinct, because permissions and rate_limits may hold the same wrong row twice
create or replace macro __problems_besides_guardrails() as table
select distinct *
from (
    from __problems_of_endpoints()
    union all
    from __problems_of_served_entities()
    union all
    from __problems_of_credentials()
    union all
    from __problems_of_principals()
    union all
    from __problems_of_group_members()
    union all
    from __problems_of_permissions()
    union all
    from __problems_of_rate_limits()
    union all
    from __problems_of_model_prices()
    union all
    from __problems_of_entity_prices()
    union all
    from __problems_of_unknown_prices()
    union all
    from __problems_of_settings()
    union all
    from __problems_of_alerts()
    union all
    from __problems_of_budgets()
);

-- Apart, since the gateway asks for them only where there is a guardrail. Together they are written in both views: a
-- macro for it would be bound once more at each attach, which takes 10 ms.
create or replace macro __problems_about_guardrails(macros) as table
select distinct *
from (
    from __problems_of_guardrails(macros)
    union all
    from __problems_of_pii_entities()
);

-- one row is one inconsistency in the config tables, with the row to change and how
create or replace view config_problems as
select
    table_name,
    row_key,
    column_name,
    problem,
    remedy,
    endpoint
from (
    from __problems_besides_guardrails()
    union all
    from __problems_about_guardrails(__macros_as_json())
)
order by table_name, row_key, column_name nulls first;

comment on view config_problems is 'One row is one inconsistency in the config tables: the row and column to change and how. A call that meets it fails with the same words';
comment on column config_problems.table_name is 'Table in fleming';
comment on column config_problems.row_key is 'The row: its name, or its names with a slash between them, such as endpoint/name for served_entities; for what several rows are together, what they share';
comment on column config_problems.column_name is 'The column to change; NULL where a row is missing or too many';
comment on column config_problems.problem is 'What is wrong, with the value';
comment on column config_problems.remedy is 'What to do, and what would be accepted';
comment on column config_problems.endpoint is 'The endpoint that the row names; NULL where it names none: config_problem_endpoints tells whose calls fail';

-- one row is one endpoint whose calls fail because of one row of config_problems
create or replace view config_problem_endpoints as
select
    unnest(stops) as endpoint,
    table_name,
    row_key,
    column_name,
    problem,
    remedy
from (
    from __problems_besides_guardrails()
    union all
    from __problems_about_guardrails(__macros_as_json())
)
order by endpoint, table_name, row_key, column_name nulls first;

comment on view config_problem_endpoints is 'One row is one endpoint whose calls fail because of one row of config_problems';
comment on column config_problem_endpoints.endpoint is 'Whose calls fail';
comment on column config_problem_endpoints.table_name is 'As in config_problems';
comment on column config_problem_endpoints.row_key is 'As in config_problems';
comment on column config_problem_endpoints.column_name is 'As in config_problems';
comment on column config_problem_endpoints.problem is 'As in config_problems';
comment on column config_problem_endpoints.remedy is 'As in config_problems';
