-- A served entity without a price works, but what it costs is not known; only the routing least_cost needs to know.
create or replace macro __problems_of_unknown_prices() as table
select
    'served_entities' as table_name,
    s.endpoint || '/' || s.name as row_key,
    null::varchar as column_name,
    if(
        is_needed,
        'endpoint "' || s.endpoint || '" has the routing least_cost, and its served entity "' || s.name
            || '" has no price that is valid now',
        'served entity "' || s.name || '" of endpoint "' || s.endpoint
            || '" has no price that is valid now, so the cost of its calls is not known'
    ) as problem,
    'insert into fleming.model_prices (provider, model, input_per_million, output_per_million) values ('''
        || replace(s.provider, '''', '''''') || ''', ''' || replace(s.model, '''', '''''') || ''', <US dollars>, <US dollars>)'
        || ', or a row into fleming.entity_prices for a model that you host'
        || if(is_needed, '; or change endpoints.routing', '') as remedy,
    s.endpoint,
    if(is_needed, [s.endpoint], []) as stops
from (
    select
        c.endpoint,
        c.name,
        c.provider,
        c.model,
        coalesce(c.base_url, c.provider_config ->> 'openai_api_base', '') as base_url,
        e.routing = 'least_cost' and c.traffic_percentage > 0 as is_needed
    from served_entities as c
    inner join endpoints as e on e.name = c.endpoint
    where c.enabled
        and c.provider in (select name from providers)
        and not exists (
            select 1
            from entity_prices as o
            where o.endpoint = c.endpoint and o.served_entity = c.name and o.valid_from <= now() at time zone 'UTC'
            having max_by(coalesce(o.valid_to, 'infinity'), o.valid_from) > now() at time zone 'UTC'
        )
) as s
left join (
    select priced.endpoint as endpoint, priced.served_entity as name, priced.provider as provider, priced.base_url as base_url, priced.model as model
    from __prices_of_models()
    where service_tier = 'default' and valid_from <= now() at time zone 'UTC'
        and (priced.endpoint, priced.served_entity) not in (select (endpoint, served_entity) from entity_prices)
    group by all
    having max_by(coalesce(valid_to, 'infinity'), valid_from) > now() at time zone 'UTC'
        and max_by(input_per_million is not null or source = 'user', valid_from)  -- those of your own are told apart
) as p using (endpoint, name, provider, base_url, model)
where p.endpoint is null;
