-- one row puts one member into one group, directly or through other groups
create or replace view memberships as
with recursive reached as (
    select m.member, m.group_name
    from group_members as m
    where m.group_name not in (select name from principals where not enabled)
    union
    select r.member, m.group_name
    from reached as r
    inner join group_members as m on m.member = r.group_name
    where m.group_name not in (select name from principals where not enabled)
)
select group_name, member
from reached;

comment on view memberships is 'One row puts one member into one enabled group, directly or through other groups: what permissions and rate limits of groups go by';
comment on column memberships.group_name is 'The group';
comment on column memberships.member is 'A user, a service principal or another group';
