-- What prices call the tier that a provider names; one that it does not name is the normal one, which OpenAI calls
-- default or auto, Anthropic standard and Groq on_demand.
create or replace macro __price_tier(service_tier) as
    if(
        service_tier is null or lower(service_tier) in ('default', 'auto', 'standard', 'on_demand'),
        'default',
        lower(service_tier)
    );

-- Whether the name of a model is one that a row of model_prices is for. Case does not count, for no provider has two
-- models that differ by it.
create or replace macro __is_priced_by(model, priced_model) as
    lower(model) = lower(priced_model)
    or (
        contains(priced_model, '*')
        and like_escape(
            lower(model),
            replace(replace(replace(replace(lower(priced_model), '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'),
            '\'
        )
    );

-- Whether an amount can be charged: NaN, what is endless and what is below 0 are no prices, and NULL is none here.
create or replace macro __can_be_charged(amount) as coalesce(amount >= 0 and amount < 'inf', true);

-- The models that are configured. Some providers take their address from the provider_config too.
create or replace macro __configured_models() as table
select
    endpoint,
    name as served_entity,
    provider,
    coalesce(base_url, provider_config ->> 'openai_api_base', provider_config ->> 'custom_provider_url', '') as base_url,
    model
from main.served_entities;

-- Those, and the ones that were.
create or replace macro __priced_models() as table
select
    *,
    row_number() over (order by endpoint, served_entity, provider, base_url, model) as number
from (
    from __configured_models()
    union
    select
        endpoint_name,
        served_entity_name,
        external_model_config.provider,
        coalesce(external_model_config.base_url, ''),
        entity_name
    from serving.served_entities
);

-- The rows of model_prices that hold for each of them, numbered as they are: your own for its provider, and until the
-- first of those begins the rows of the price list that its address belongs to, else of the one that its provider has in
-- the list, or of the providers whose models that one offers too. All rows of one name of a model go together; a name
-- without * goes first, then the longest. A row with an amount that cannot be charged holds too, and says nothing: no
-- other may take its place.
create or replace macro __prices_of_models() as table
with
listed as (
    select
        m as priced,
        m.number as number,
        coalesce(
            (
                select min_by(l.provider, l.position)
                from main.price_list_providers as l
                where m.base_url <> '' and regexp_matches(m.base_url, '^(?:' || l.api_pattern || ')')
            ),
            k.price_list,
            m.provider
        ) as list
    from __priced_models() as m
    left join main.providers as k on k.name = m.provider
),
places as (
    select number, priced, priced.provider as provider, true as is_own, 0 as place from listed
    union all
    select number, priced, list, false, 1 from listed
    union all
    select o.number, o.priced, unnest(l.offers_models_of), false, unnest(range(2, 2 + len(l.offers_models_of)))
    from listed as o
    inner join main.price_list_providers as l on l.provider = o.list
),
rows as (
    select
        * replace (
            if(is_price, input_per_million, null) as input_per_million,
            if(is_price, output_per_million, null) as output_per_million,
            if(is_price, cached_input_per_million, null) as cached_input_per_million,
            if(is_price, cache_write_per_million, null) as cache_write_per_million
        )
    from (
        select
            *,
            __can_be_charged(input_per_million)
            and __can_be_charged(output_per_million)
            and __can_be_charged(cached_input_per_million)
            and __can_be_charged(cache_write_per_million) as is_price
        from main.model_prices
    )
),
nearest as (
    select
        o.number,
        o.priced,
        o.is_own,
        p.* exclude (is_price) replace (__price_tier(p.service_tier) as service_tier)
    from places as o
    inner join rows as p
        on p.provider = o.provider
        and (p.source = 'user') = o.is_own
        and __is_priced_by(o.priced.model, p.model)
    qualify 1 = rank() over (
        partition by o.number, o.is_own
        order by o.place, contains(p.model, '*'), len(p.model) desc, lower(p.model)
    )
),
begun as (
    select *, min(valid_from) filter (where is_own) over (partition by number) as own_from
    from nearest
)
select * exclude (is_own, own_from) replace (if(is_own, valid_to, least(valid_to, own_from)) as valid_to)
from begun
where is_own or own_from is null or valid_from < own_from;

-- The same, cut so that at any time, tier and length of the input one row holds.
create or replace macro __prices_in_effect() as table
with
periods as materialized (
    select
        * replace (
            coalesce(
                least(
                    valid_to,
                    lead(valid_from) over (partition by number, service_tier, from_input_tokens order by valid_from)
                ),
                'infinity'
            ) as valid_to
        )
    from __prices_of_models()
),
bounds as (
    select number, service_tier, valid_from as bound from periods
    union
    select number, service_tier, valid_to from periods
),
slices as (
    select
        number,
        service_tier,
        bound as slice_from,
        lead(bound) over (partition by number, service_tier order by bound) as slice_to
    from bounds
)
select
    p.* replace (s.slice_from as valid_from, nullif(s.slice_to, 'infinity') as valid_to),
    lead(p.from_input_tokens) over (
        partition by number, service_tier, s.slice_from order by p.from_input_tokens
    ) as to_input_tokens
from slices as s
inner join periods as p using (number, service_tier)
where p.valid_from <= s.slice_from and s.slice_from < p.valid_to;

-- What each model costs; those with a row in entity_prices cost by that alone.
create or replace macro __prices_of_entities() as table
select
    priced.endpoint as endpoint,
    priced.served_entity as served_entity,
    priced.provider as provider,
    priced.base_url as base_url,
    priced.model as model,
    'model_prices' as priced_by,
    source,
    p.model as priced_model,
    service_tier,
    from_input_tokens,
    to_input_tokens,
    valid_from,
    valid_to,
    input_per_million,
    output_per_million,
    cached_input_per_million,
    cache_write_per_million,
    0::double as per_second,
    0::double as per_call
from __prices_in_effect() as p
where (priced.endpoint, priced.served_entity) not in (select (endpoint, served_entity) from main.entity_prices)
union all
select
    m.endpoint,
    m.served_entity,
    m.provider,
    m.base_url,
    m.model,
    'entity_prices',
    'user',
    null,
    null,
    0,
    null,
    p.valid_from,
    p.valid_to,
    p.per_token,
    p.per_token,
    p.per_token,
    p.per_token,
    if(p.per_token is null, null, p.per_second),
    if(p.per_token is null, null, p.per_call)
from __priced_models() as m
inner join (
    select
        * replace (
            least(valid_to, lead(valid_from) over (partition by endpoint, served_entity order by valid_from)) as valid_to
        ),
        if(__can_be_charged(per_second) and __can_be_charged(per_call), 0, null) as per_token
    from main.entity_prices
) as p on p.endpoint = m.endpoint and p.served_entity = m.served_entity
where p.valid_to is null or p.valid_from < p.valid_to;

-- one row is what one version of a served entity costs, for some time, tier and length of the input
create or replace view serving.served_entity_prices as
select
    s.served_entity_id,
    s.endpoint_name,
    s.served_entity_name,
    s.external_model_config.provider as provider,
    s.entity_name as model,
    p.service_tier,
    p.from_input_tokens,
    p.to_input_tokens,
    p.valid_from,
    p.valid_to,
    p.input_per_million,
    p.output_per_million,
    p.cached_input_per_million,
    p.cache_write_per_million,
    p.per_second,
    p.per_call,
    p.priced_by,
    p.priced_model,
    p.source
from serving.served_entities as s
inner join __prices_of_entities() as p
    on p.endpoint = s.endpoint_name
    and p.served_entity = s.served_entity_name
    and p.provider = s.external_model_config.provider
    and p.base_url = coalesce(s.external_model_config.base_url, '')
    and p.model = s.entity_name;

comment on view serving.served_entity_prices is 'One row is what one version of a served entity costs for some time, tier and length of the input: the row of entity_prices or model_prices that counts. An entity without a row has no known price';
comment on column serving.served_entity_prices.served_entity_id is 'Version of the entity, as in served_entities';
comment on column serving.served_entity_prices.endpoint_name is 'Endpoint that it serves';
comment on column serving.served_entity_prices.served_entity_name is 'Its name';
comment on column serving.served_entity_prices.provider is 'As in served_entities.provider';
comment on column serving.served_entity_prices.model is 'The model''s name at its provider';
comment on column serving.served_entity_prices.service_tier is 'default, or as the provider names it in its answer; NULL for prices of entity_prices, which hold for all';
comment on column serving.served_entity_prices.from_input_tokens is 'For calls with at least so many input tokens';
comment on column serving.served_entity_prices.to_input_tokens is 'And fewer than these; NULL is without end';
comment on column serving.served_entity_prices.valid_from is 'UTC';
comment on column serving.served_entity_prices.valid_to is 'UTC, exclusive; NULL is for ever';
comment on column serving.served_entity_prices.input_per_million is 'US dollars for a million input tokens';
comment on column serving.served_entity_prices.output_per_million is 'US dollars for a million output tokens, those of reasoning included';
comment on column serving.served_entity_prices.cached_input_per_million is 'US dollars for a million input tokens from the provider''s prompt cache; NULL is input_per_million';
comment on column serving.served_entity_prices.cache_write_per_million is 'US dollars for a million input tokens that are put into that cache; NULL is input_per_million';
comment on column serving.served_entity_prices.per_second is 'US dollars for a second of its requests'' duration';
comment on column serving.served_entity_prices.per_call is 'US dollars for a call that it answered';
comment on column serving.served_entity_prices.priced_by is 'The table that has the price: entity_prices or model_prices';
comment on column serving.served_entity_prices.priced_model is 'model_prices.model of that row';
comment on column serving.served_entity_prices.source is 'model_prices.source of that row';
