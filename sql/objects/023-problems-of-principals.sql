-- the endpoints to which it matters who is in which group
create or replace macro __endpoints_with_groups() as table
select coalesce(list(distinct endpoint order by endpoint), []) as endpoints
from (
    select endpoint
    from permissions
    where principal_type in ('group', 'user_group')
    union all
    select endpoint
    from rate_limits
    where key = 'user_group'
);

-- A principal of an unknown type stops the endpoints that name it, those that have a limit for each user (is it one?)
-- and, where it is in a group or is one, those that name groups.
create or replace macro __problems_of_principals() as table
with
wrong as (
    from principals
    where type not in ('user', 'service_principal', 'group')
),
stopped as (
    select
        w.name,
        x.endpoint
    from wrong as w
    inner join permissions as x on x.principal = w.name
    union
    select
        w.name,
        x.endpoint
    from wrong as w
    inner join rate_limits as x on x.principal = w.name or (x.key = 'user' and x.principal is null)
    union
    select
        w.name,
        unnest(g.endpoints)
    from wrong as w
    cross join __endpoints_with_groups() as g
    where exists (from group_members as m where m.group_name = w.name or m.member = w.name)
)
select
    'principals' as table_name,
    w.name as row_key,
    'type' as column_name,
    'principal "' || w.name || '" has the type "' || w.type || '", which does not exist' as problem,
    'change the column type to one of: user, service_principal, group' as remedy,
    null::varchar as endpoint,
    coalesce((select list(s.endpoint order by s.endpoint) from stopped as s where s.name = w.name), []) as stops
from wrong as w;
