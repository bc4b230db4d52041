-- Rows of your own; those of the price list are as its makers have them. A price stops the endpoints that go by it:
-- those with the routing least_cost that send traffic to its model.
create or replace macro __problems_of_model_prices() as table
with
prices as (
    select
        *,
        __price_tier(service_tier) as tier,
        provider || '/' || model || '/' || if(tier = 'default', '', tier || '/')
            || if(from_input_tokens = 0, '', 'from ' || from_input_tokens || '/') || valid_from::varchar as row_key,
        'model "' || model || '" of provider "' || provider || '"' as named
    from model_prices
    where source = 'user'
),
following as (
    select
        *,
        lead(valid_from) over (
            partition by provider, lower(model), tier, from_input_tokens order by valid_from, valid_to
        ) as next_from
    from prices
),
breaches as (
    select
        provider,
        model,
        row_key,
        unnest([
            __rule_of_price('input_per_million', input_per_million, named, ''),
            __rule_of_price('output_per_million', output_per_million, named, ', or to NULL for a model that answers with no tokens'),
            __rule_of_price('cached_input_per_million', cached_input_per_million, named, ', or to NULL for input_per_million'),
            __rule_of_price('cache_write_per_million', cache_write_per_million, named, ', or to NULL for input_per_million'),
            __rule(
                'input_per_million',
                input_per_million is null,
                named || ' has a price without input_per_million, so what its calls cost is not known',
                'set the column input_per_million to 0 or more, or delete the row'
            ),
            __rule(
                'from_input_tokens',
                from_input_tokens < 0,
                'the from_input_tokens of a price of ' || named || ' is ' || from_input_tokens || ', which is below 0',
                'set the column from_input_tokens to 0 or more'
            ),
            __rule_of_period(valid_from, valid_to, next_from, named)
        ]) as rule
    from following
)
select
    'model_prices' as table_name,
    b.row_key,
    b.rule.column_name as column_name,
    b.rule.problem as problem,
    b.rule.remedy as remedy,
    null::varchar as endpoint,
    coalesce(
        (
            select list(distinct e.name order by e.name)
            from endpoints as e
            inner join served_entities as s on s.endpoint = e.name
            where e.routing = 'least_cost' and s.traffic_percentage > 0 and s.provider = b.provider
                and __is_priced_by(s.model, b.model)
        ),
        []
    ) as stops
from breaches as b
where b.rule.wrong;
