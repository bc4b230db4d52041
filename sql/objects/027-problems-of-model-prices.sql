-- A price stops the endpoints that go by it: those with the routing least_cost that send traffic to its model.
create or replace macro __problems_of_model_prices() as table
with
breaches as (
    select
        provider,
        model,
        provider || '/' || model || '/' || valid_from::varchar as row_key,
        unnest([
            __rule('input_per_million', not (input_per_million >= 0 and input_per_million < 'inf'), printf('%g', input_per_million), ''),
            __rule('output_per_million', not (output_per_million >= 0 and output_per_million < 'inf'), printf('%g', output_per_million), ''),
            __rule(
                'cached_input_per_million',
                not (cached_input_per_million >= 0 and cached_input_per_million < 'inf'),
                printf('%g', cached_input_per_million),
                ', or to NULL for input_per_million'
            )
        ]) as rule
    from model_prices
)
select
    'model_prices' as table_name,
    b.row_key,
    b.rule.column_name as column_name,
    'the ' || b.rule.column_name || ' of model "' || b.model || '" of provider "' || b.provider || '" is ' || b.rule.problem
        || ', not a number of US dollars from 0 up' as problem,
    'set the column ' || b.rule.column_name || ' to 0 or more' || b.rule.remedy as remedy,
    null::varchar as endpoint,
    coalesce(
        (
            select list(distinct e.name order by e.name)
            from endpoints as e
            inner join served_entities as s on s.endpoint = e.name
            where e.routing = 'least_cost' and s.traffic_percentage > 0 and s.provider = b.provider and s.model = b.model
        ),
        []
    ) as stops
from breaches as b
where b.rule.wrong;
