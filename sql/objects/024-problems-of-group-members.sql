-- One row is one group that is a member of itself, with the shortest chain of members that leads back to it:
-- ['a', 'b', 'a']. A chain of more than 10 steps is cut to its first one: ['a', 'b', NULL, 'a'].
create or replace macro __group_cycles() as table
with recursive
groups as materialized (
    select
        name,
        (row_number() over (order by name))::integer as id
    from (select group_name as name from group_members intersect select member from group_members)
),
edges as materialized (
    select
        g.id as parent,
        c.id as child
    from group_members as m
    inner join groups as g on g.name = m.group_name
    inner join groups as c on c.name = m.member
),
-- Rows of two columns can be told apart from those already found, so this ends for any graph, in as many rounds as
-- the longest chain has steps.
descendants(ancestor, descendant) as (
    from edges
    union
    select
        d.ancestor,
        e.child
    from descendants as d
    inner join edges as e on e.parent = d.descendant
),
-- the edges that lie on a cycle
links as materialized (
    select
        e.parent,
        e.child
    from edges as e
    inner join descendants as d on d.ancestor = e.child and d.descendant = e.parent
),
-- From each group along the links, one chain to each group that so many steps lead to; no further once it is back.
chains(origin, reached, chain) as (
    select
        parent,
        child,
        [parent, child]
    from links
    union all
    select
        n.origin,
        n.reached,
        list_append(c.chain, n.reached)
    from (
        select
            c.origin,
            l.child as reached,
            min(l.parent) as via
        from chains as c
        inner join links as l on l.parent = c.reached
        where len(c.chain) <= 10 and c.origin not in (select origin from chains where origin = reached)
        group by c.origin, l.child
    ) as n
    inner join chains as c on c.origin = n.origin and c.reached = n.via
),
cycles as (
    select
        l.parent as id,
        coalesce(any_value(c.chain), [l.parent, min(l.child), null, l.parent]) as chain
    from links as l
    left join chains as c on c.origin = l.parent and c.reached = l.parent
    group by l.parent
),
steps as (
    select
        id,
        unnest(chain) as step,
        generate_subscripts(chain, 1) as place
    from cycles
)
select
    any_value(o.name) as group_name,
    list(g.name order by s.place) as chain
from steps as s
inner join groups as o on o.id = s.id
left join groups as g on g.id = s.step
group by s.id;

create or replace macro __problems_of_group_members() as table
with
breaches as (
    select
        m.group_name || '/' || m.member as row_key,
        unnest([
            __rule(
                'group_name',
                g.name is null,
                'a row of group_members names the group "' || m.group_name || '", which does not exist',
                'insert it into fleming.principals with the type group or change the column group_name'
            ),
            __rule(
                'group_name',
                g.type in ('user', 'service_principal'),
                'a row of group_members names the group "' || m.group_name || '", which is of type ' || g.type || ' in principals',
                'change the column group_name to a principal of type group'
            ),
            __rule(
                'member',
                p.name is null,
                'the group "' || m.group_name || '" has the member "' || m.member || '", which does not exist',
                'insert it into fleming.principals or change the column member'
            )
        ]) as rule
    from group_members as m
    left join principals as g on g.name = m.group_name
    left join principals as p on p.name = m.member
),
problems as (
    select
        row_key,
        rule.column_name as column_name,
        rule.problem as problem,
        rule.remedy as remedy
    from breaches
    where rule.wrong
    union all
    select
        chain[1] || '/' || chain[2],
        'member',
        'the group "' || group_name || '" is a member of itself: '
            || array_to_string(list_transform(chain, lambda name: coalesce(name, '...')), ' > '),
        'delete one row of the chain from fleming.group_members'
    from __group_cycles()
)
select
    'group_members' as table_name,
    p.row_key,
    p.column_name,
    p.problem,
    p.remedy,
    null::varchar as endpoint,
    g.endpoints as stops
from problems as p
cross join __endpoints_with_groups() as g;
