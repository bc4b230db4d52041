{# Runs before every build, and changes something only if what is written here has changed. #}
{% macro configure_gateway() %}
    {%- set quoted = {} -%}
    {%- for name in ['provider', 'model', 'base_url', 'api_key_variable'] -%}
        {%- set value = var(name) -%}
        {%- do quoted.update({name: 'null' if value is none else dbt.string_literal(dbt.escape_single_quotes(value))}) -%}
    {%- endfor -%}

    insert into fleming.endpoints (name, cache_ttl_seconds)
    values ('tickets', 30 * 86400)  -- an answer is given again for a month
    on conflict (name) do update set cache_ttl_seconds = excluded.cache_ttl_seconds;

    {% if var('api_key_variable') is not none -%}
    insert into fleming.credentials (name, source, reference)
    values ('tickets', 'env', {{ quoted.api_key_variable }})
    on conflict (name) do update set reference = excluded.reference;
    {%- endif %}

    insert into fleming.served_entities (endpoint, name, provider, model, base_url, credential)
    values (
        'tickets', 'main', {{ quoted.provider }}, {{ quoted.model }}, {{ quoted.base_url }},
        {{ 'null' if var('api_key_variable') is none else "'tickets'" }}
    )
    on conflict (endpoint, name) do update set
        provider = excluded.provider,
        model = excluded.model,
        base_url = excluded.base_url,
        credential = excluded.credential;

    -- Tickets with card numbers do not leave the house: their calls fail, and somebody reads them.
    insert into fleming.guardrails (endpoint, name, kind, behavior, config)
    select 'tickets', 'no card numbers', 'pii', 'block', '{"entities": ["CREDIT_CARD"]}'
    where not exists (from fleming.guardrails where endpoint = 'tickets' and name = 'no card numbers')
{% endmacro %}
