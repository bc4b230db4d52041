-- What ai_query stands for. __fleming_type runs while the statement is bound and returns the type of the result;
-- DuckDB accepts a Python function there only inside a lambda, and only of constants, so the types of the other
-- arguments are checked when the rows come. __fleming_call runs for the rows and returns JSON text.
create or replace macro __fleming_query(
    endpoint,
    request,
    isList,
    returnType,
    failOnError,
    modelParameters,
    responseFormat,
    files,
    usageContext,
    cache
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
        to_json({
            'isList': isList,
            'request': typeof(request),
            'modelParameters': typeof(modelParameters),
            'usageContext': typeof(usageContext),
            'files': typeof(files),
            'cache': typeof(cache)
        })::varchar,
        to_json(usageContext)::varchar,
        files,
        current_connection_id()::bigint,
        current_query_id()::bigint
    ),
    -- One list per argument: DuckDB puts off binding a macro of the user's own around this one only as long as
    -- the elements of a list are parameters.
    list_transform([endpoint], lambda e:
    list_transform([returnType], lambda t:
    list_transform([failOnError], lambda f:
    list_transform([responseFormat], lambda r:
        __fleming_type(
            e, to_json({'returnType': t, 'failOnError': f, 'responseFormat': r, 'cache': true})::varchar, isList
        )
    )[1])[1])[1])[1]
);
