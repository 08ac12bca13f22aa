/* A batching strategy: the requests of a batch have no more elements together than the parameter MOST of the model says. */
#include "common.h"

TRITONSERVER_Error* TRITONBACKEND_ModelBatcherInitialize(TRITONBACKEND_Batcher** batcher, TRITONBACKEND_Model* model) {
    TRITONSERVER_Message* config;
    const char* json;
    size_t length;
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    const char* at = strstr(json, "\"MOST\"");
    if (at != NULL) at = strstr(at, "\"string_value\":\"");
    int64_t* most = malloc(sizeof *most);
    *most = at == NULL ? 0 : atoll(at + strlen("\"string_value\":\""));
    *batcher = (TRITONBACKEND_Batcher*)most;
    return TRITONSERVER_MessageDelete(config);
}

TRITONSERVER_Error* TRITONBACKEND_ModelBatcherFinalize(TRITONBACKEND_Batcher* batcher) {
    free(batcher);
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelBatchInitialize(const TRITONBACKEND_Batcher* batcher, void** batch) {
    int64_t* left = malloc(sizeof *left);
    *left = *(const int64_t*)batcher;
    *batch = left;
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelBatchIncludeRequest(TRITONBACKEND_Request* request, void* batch, bool* includes) {
    int64_t* left = batch;
    TRITONBACKEND_Input* input;
    uint64_t size;
    TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
    TRY(TRITONBACKEND_InputProperties(input, NULL, NULL, NULL, NULL, &size, NULL));
    *left -= (int64_t)(size / sizeof(int32_t));
    *includes = *left >= 0;
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelBatchFinalize(void* batch) {
    free(batch);
    return NULL;
}
