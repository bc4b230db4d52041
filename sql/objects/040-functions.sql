-- ai_query(endpoint, request, …): ask the model behind an endpoint, once per row.
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
) as fleming.main.__fleming_query(
    endpoint, request, false, returnType, failOnError, modelParameters, responseFormat, files, usageContext, cache
);
