create or replace macro __problems_of_permissions() as table
with
breaches as (
    select
        x.endpoint as endpoint,
        x.endpoint || '/' || x.principal_type || '/' || x.principal || '/' || x.privilege as row_key,
        unnest([
            __rule(
                'endpoint',
                e.name is null,
                'a permission of "' || x.principal || '" names the endpoint "' || x.endpoint || '", which does not exist',
                'insert it into fleming.endpoints or change the column endpoint'
            ),
            __rule(
                'principal_type',
                x.principal_type not in ('user', 'service_principal', 'group', 'user_group'),
                'a permission on endpoint "' || x.endpoint || '" has the principal_type "' || x.principal_type || '", which does not exist',
                'change the column principal_type to one of: user, service_principal, group'
            ),
            __rule(
                'principal',
                p.name is null,
                'a permission on endpoint "' || x.endpoint || '" names the principal "' || x.principal || '", which does not exist',
                'insert it into fleming.principals or change the column principal'
            ),
            -- a type that does not exist is a problem of the other row
            __rule(
                'principal_type',
                p.type in ('user', 'service_principal', 'group')
                    and x.principal_type in ('user', 'service_principal', 'group', 'user_group')
                    and p.type <> replace(x.principal_type, 'user_group', 'group'),
                'a permission on endpoint "' || x.endpoint || '" has the principal_type ' || x.principal_type
                    || ', and "' || x.principal || '" is of type ' || p.type || ' in principals',
                'change the column principal_type to ' || p.type || ', or the column principal'
            ),
            __rule(
                'privilege',
                x.privilege not in ('CAN_QUERY', 'CAN_MANAGE', 'CAN_VIEW'),
                'a permission of "' || x.principal || '" on endpoint "' || x.endpoint || '" has the privilege "' || x.privilege || '", which does not exist',
                'change the column privilege to one of: CAN_QUERY, CAN_MANAGE, CAN_VIEW'
            )
        ]) as rule
    from permissions as x
    left join endpoints as e on e.name = x.endpoint
    left join principals as p on p.name = x.principal
)
select
    'permissions' as table_name,
    row_key,
    rule.column_name as column_name,
    rule.problem as problem,
    rule.remedy as remedy,
    endpoint,
    [endpoint] as stops
from breaches
where rule.wrong;
