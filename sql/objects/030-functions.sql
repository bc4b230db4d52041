-- ai_query(endpoint, request, …): ask the model behind an endpoint, once per row.
-- __fleming_type runs while the statement is bound and returns the type of the result; DuckDB accepts a Python
-- function there only inside a lambda. __fleming_call runs for the rows and returns JSON text.
create or replace macro ai_query(
    endpoint,
    request,
    returnType := null,
    failOnError := true,
    modelParameters := null,
    responseFormat := null,
    files := null,
    usageContext := null,
    cache := true
) as from_json(
    __fleming_call(
        endpoint,
        to_json(request)::varchar,
        to_json({
            'returnType': returnType,
            'failOnError': failOnError,
            'modelParameters': modelParameters,
            'responseFormat': responseFormat,
            'cache': cache
        })::varchar,
        typeof(request),
        to_json(usageContext)::varchar,
        files,
        current_connection_id()::bigint,
        current_query_id()::bigint
    ),
    list_transform(
        [endpoint],
        lambda e: __fleming_type(
            e,
            to_json({'returnType': returnType, 'failOnError': failOnError, 'responseFormat': responseFormat, 'cache': true})::varchar,
            to_json({
                'request': typeof(request),
                'modelParameters': typeof(modelParameters),
                'usageContext': typeof(usageContext),
                'files': typeof(files),
                'cache': typeof(cache)
            })::varchar
        )
    )[1]
);
