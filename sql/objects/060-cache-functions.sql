-- ai_cache_clear(endpoint): give no answer of an endpoint again that was made before now; of all endpoints with NULL.
-- Returns how many answers the log held that could have been given again.
create or replace macro ai_cache_clear(endpoint := null) as __fleming_cache_clear(endpoint);
