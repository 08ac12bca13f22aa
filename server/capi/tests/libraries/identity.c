/* Answers OUTPUT0 with INPUT0, and says so in all the ways that well-behaved backends do. */
#include "common.h"

/* The file in the folder of the library that shows the order of calls. */
static char calls[4096];

static void note(const char* what, const char* of) {
    FILE* file = fopen(calls, "a");
    if (file == NULL) return;
    fprintf(file, "%s %s\n", what, of);
    fclose(file);
}

static const char* name_of(TRITONBACKEND_Model* model) {
    const char* name = "?";
    fails(TRITONBACKEND_ModelName(model, &name));
    return name;
}

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
    const char* name;
    TRY(TRITONBACKEND_BackendName(backend, &name));
    uint32_t major, minor;
    TRY(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != TRITONBACKEND_API_VERSION_MAJOR || minor < TRITONBACKEND_API_VERSION_MINOR) {
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNSUPPORTED, "another version of the interface");
    }
    TRITONBACKEND_ArtifactType kind;
    const char* folder;
    TRY(TRITONBACKEND_BackendArtifacts(backend, &kind, &folder));
    snprintf(calls, sizeof calls, "%s/calls.txt", folder);
    note("Initialize", name);
    TRITONSERVER_Message* config;
    TRY(TRITONBACKEND_BackendConfig(backend, &config));
    const char* json;
    size_t length;
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    note("BackendConfig", json);
    TRY(TRITONSERVER_MessageDelete(config));
    TRITONBACKEND_MemoryManager* manager;
    TRY(TRITONBACKEND_BackendMemoryManager(backend, &manager));
    void* memory;
    TRY(TRITONBACKEND_MemoryManagerAllocate(manager, &memory, TRITONSERVER_MEMORY_CPU_PINNED, 0, 4096));
    memset(memory, 1, 4096);
    TRY(TRITONBACKEND_MemoryManagerFree(manager, memory, TRITONSERVER_MEMORY_CPU_PINNED, 0));
    if (!fails(TRITONBACKEND_MemoryManagerAllocate(manager, &memory, TRITONSERVER_MEMORY_GPU, 0, 16)) ||
        !fails(TRITONBACKEND_MemoryManagerFree(manager, &major, TRITONSERVER_MEMORY_CPU, 0))) {
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "memory that there is not was given");
    }
#ifdef ONE_INSTANCE_AT_A_TIME
    TRY(TRITONBACKEND_BackendSetExecutionPolicy(backend, TRITONBACKEND_EXECUTION_DEVICE_BLOCKING));
#endif
    return TRITONBACKEND_BackendSetState(backend, strdup(name));
}

TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(
    TRITONBACKEND_Backend* backend, TRITONBACKEND_BackendAttribute* attributes) {
    (void)backend;
    TRY(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
        attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 2, NULL, 0));
    return TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true);
}

TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
    void* state;
    TRY(TRITONBACKEND_BackendState(backend, &state));
    note("Finalize", state);
    free(state);
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
    note("ModelInitialize", name_of(model));
    bool completes;
    TRY(TRITONBACKEND_ModelAutoCompleteConfig(model, &completes));
    TRITONSERVER_Message* config;
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    const char* json;
    size_t length;
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    bool is_open = strstr(json, "INPUT0") == NULL;
    TRY(TRITONSERVER_MessageDelete(config));
    if (!is_open || !completes) return NULL;
    static const char completed[] =
        "{\"max_batch_size\":4,\"input\":[{\"name\":\"INPUT0\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}],"
        "\"output\":[{\"name\":\"OUTPUT0\",\"data_type\":\"TYPE_INT32\",\"dims\":[-1]}],\"dynamic_batching\":{}}";
    TRY(TRITONSERVER_MessageNewFromSerializedJson(&config, completed, strlen(completed)));
    TRITONSERVER_Error* error = TRITONBACKEND_ModelSetConfig(model, 1, config);
    TRY(TRITONSERVER_MessageDelete(config));
    return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
    note("ModelFinalize", name_of(model));
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
    const char* name;
    TRY(TRITONBACKEND_ModelInstanceName(instance, &name));
    note("ModelInstanceInitialize", name);
    TRITONSERVER_InstanceGroupKind kind;
    TRY(TRITONBACKEND_ModelInstanceKind(instance, &kind));
    TRITONBACKEND_Model* model;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    return TRITONBACKEND_ModelInstanceSetState(instance, strdup(name));
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
    void* state;
    TRY(TRITONBACKEND_ModelInstanceState(instance, &state));
    note("ModelInstanceFinalize", state == NULL ? "?" : state);
    free(state);
    return NULL;
}

static TRITONSERVER_Error* answer(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    uint32_t count;
    TRY(TRITONBACKEND_RequestOutputCount(request, &count));
    for (uint32_t index = 0; index < count; ++index) {
        const char* name;
        TRY(TRITONBACKEND_RequestOutputName(request, index, &name));
        TRY(repeat(request, "INPUT0", response, name));
    }
    TRY(TRITONBACKEND_RequestParameterCount(request, &count));
    for (uint32_t index = 0; index < count; ++index) {
        const char* key;
        TRITONSERVER_ParameterType type;
        const void* value;
        TRY(TRITONBACKEND_RequestParameter(request, index, &key, &type, &value));
        switch (type) {
            case TRITONSERVER_PARAMETER_STRING:
                TRY(TRITONBACKEND_ResponseSetStringParameter(response, key, value));
                break;
            case TRITONSERVER_PARAMETER_INT:
                TRY(TRITONBACKEND_ResponseSetIntParameter(response, key, *(const int64_t*)value));
                break;
            case TRITONSERVER_PARAMETER_BOOL:
                TRY(TRITONBACKEND_ResponseSetBoolParameter(response, key, *(const bool*)value));
                break;
            case TRITONSERVER_PARAMETER_DOUBLE:
                TRY(TRITONBACKEND_ResponseSetDoubleParameter(response, key, *(const double*)value));
                break;
            default:
                break;
        }
    }
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    uint64_t start = now_ns();
    uint64_t rows = 0;
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Response* response;
        TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
        TRITONSERVER_Error* error = answer(requests[index], response);
        bool is_success = error == NULL;
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
        fails(error);
        uint64_t now = now_ns();
        fails(TRITONBACKEND_ModelInstanceReportStatistics(
            instance, requests[index], is_success, start, start, now, now));
        rows += 1;
    }
    uint64_t end = now_ns();
    fails(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, start, start, end, end));
    for (uint32_t index = 0; index < count; ++index) {
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
