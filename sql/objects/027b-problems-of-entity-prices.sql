-- A price stops the endpoint of its entity where that goes by prices.
create or replace macro __problems_of_entity_prices() as table
with
prices as (
    select
        *,
        endpoint || '/' || served_entity || '/' || valid_from::varchar as row_key,
        'served entity "' || served_entity || '" of endpoint "' || endpoint || '"' as named,
        lead(valid_from) over (partition by endpoint, served_entity order by valid_from, valid_to) as next_from
    from entity_prices
),
breaches as (
    select
        p.endpoint as endpoint,
        p.served_entity,
        p.row_key,
        unnest([
            __rule(
                'endpoint',
                e.name is null,
                'a price of ' || p.named || ' names an endpoint that does not exist',
                'change the column endpoint to a name in fleming.endpoints, or delete the row'
            ),
            __rule(
                'served_entity',
                e.name is not null and s.name is null,
                'a price names the ' || p.named || ', which does not exist',
                'change the column served_entity to a name in fleming.served_entities, or delete the row'
            ),
            __rule_of_price('per_second', p.per_second, p.named, ''),
            __rule_of_price('per_call', p.per_call, p.named, ''),
            __rule_of_period(p.valid_from, p.valid_to, p.next_from, p.named)
        ]) as rule
    from prices as p
    left join endpoints as e on e.name = p.endpoint
    left join served_entities as s on s.endpoint = p.endpoint and s.name = p.served_entity
)
select
    'entity_prices' as table_name,
    b.row_key,
    b.rule.column_name as column_name,
    b.rule.problem as problem,
    b.rule.remedy as remedy,
    b.endpoint,
    if(
        exists (
            from endpoints as e
            inner join served_entities as s on s.endpoint = e.name
            where e.name = b.endpoint and s.name = b.served_entity and e.routing = 'least_cost' and s.traffic_percentage > 0
        ),
        [b.endpoint],
        []
    ) as stops
from breaches as b
where b.rule.wrong;
