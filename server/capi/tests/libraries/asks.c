/* Asks the model that its parameter names for what it is asked itself, waits for the answer, and gives it on. If INPUT0 begins with a
 * zero, it asks nobody, and checks what the server says of itself; the first surprise is the error of the request. */
#include "common.h"

#define EXPECT(condition)                                                                                  \
    do {                                                                                                   \
        if (!(condition)) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "not so: " #condition); \
    } while (0)

typedef struct {
    char asked[64];
    TRITONSERVER_ResponseAllocator* allocator;
} State;

/* One request under way: over when the last response is here and the server reads the inputs no more. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    TRITONSERVER_InferenceResponse* response;
    bool is_answered, is_released;
} Call;

static TRITONSERVER_Error* allocate(
    TRITONSERVER_ResponseAllocator* allocator, const char* name, size_t size, TRITONSERVER_MemoryType wanted,
    int64_t wanted_id, void* user, void** buffer, void** buffer_user, TRITONSERVER_MemoryType* memory, int64_t* device) {
    (void)allocator, (void)name, (void)wanted, (void)wanted_id, (void)user;
    *buffer = malloc(size + 1);
    *buffer_user = NULL;
    *memory = TRITONSERVER_MEMORY_CPU;
    *device = 0;
    return NULL;
}

static TRITONSERVER_Error* release(
    TRITONSERVER_ResponseAllocator* allocator, void* buffer, void* buffer_user, size_t size,
    TRITONSERVER_MemoryType memory, int64_t device) {
    (void)allocator, (void)buffer_user, (void)size, (void)memory, (void)device;
    free(buffer);
    return NULL;
}

static void answered(TRITONSERVER_InferenceResponse* response, const uint32_t flags, void* user) {
    Call* call = user;
    pthread_mutex_lock(&call->lock);
    if (response != NULL) call->response = response;
    call->is_answered = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
    pthread_cond_signal(&call->changed);
    pthread_mutex_unlock(&call->lock);
}

static void released(TRITONSERVER_InferenceRequest* request, const uint32_t flags, void* user) {
    (void)request, (void)flags;
    Call* call = user;
    pthread_mutex_lock(&call->lock);
    call->is_released = true;
    pthread_cond_signal(&call->changed);
    pthread_mutex_unlock(&call->lock);
}

static TRITONSERVER_Error* send(
    TRITONSERVER_Server* server, State* state, TRITONSERVER_InferenceRequest* inner, TRITONBACKEND_Request* request,
    Call* call) {
    TRITONBACKEND_Input* input;
    const void* from;
    const int64_t* shape;
    uint32_t rank;
    uint64_t size;
    TRITONSERVER_DataType type;
    TRITONSERVER_MemoryType memory;
    int64_t device;
    TRY(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
    TRY(TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &rank, NULL, NULL));
    TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &size, &memory, &device));
    TRY(TRITONSERVER_InferenceRequestAddInput(inner, "INPUT0", type, shape, rank));
    TRY(TRITONSERVER_InferenceRequestAppendInputData(inner, "INPUT0", from, size, memory, device));
    TRY(TRITONSERVER_InferenceRequestSetReleaseCallback(inner, released, call));
    TRY(TRITONSERVER_InferenceRequestSetResponseCallback(inner, state->allocator, NULL, answered, call));
    return TRITONSERVER_ServerInferAsync(server, inner, NULL);
}

/* The caller deletes the response. */
static TRITONSERVER_Error* ask(
    TRITONSERVER_Server* server, State* state, TRITONBACKEND_Request* request, TRITONSERVER_InferenceResponse** response) {
    Call call = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, false};
    TRITONSERVER_InferenceRequest* inner;
    TRY(TRITONSERVER_InferenceRequestNew(&inner, server, state->asked, -1));
    TRITONSERVER_Error* error = send(server, state, inner, request, &call);
    if (error == NULL) {
        pthread_mutex_lock(&call.lock);
        while (!call.is_answered || !call.is_released) pthread_cond_wait(&call.changed, &call.lock);
        pthread_mutex_unlock(&call.lock);
    }
    fails(TRITONSERVER_InferenceRequestDelete(inner));
    *response = call.response;
    return error;
}

static TRITONSERVER_Error* give_on(TRITONSERVER_InferenceResponse* from, TRITONBACKEND_Response* response) {
    TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(from);
    if (error != NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ErrorCode(error), TRITONSERVER_ErrorMessage(error));
    const char* name;
    TRITONSERVER_DataType type;
    const int64_t* shape;
    uint64_t rank;
    const void* base;
    size_t size;
    TRITONSERVER_MemoryType memory;
    int64_t device;
    void* user;
    TRY(TRITONSERVER_InferenceResponseOutput(
        from, 0, &name, &type, &shape, &rank, &base, &size, &memory, &device, &user));
    TRITONBACKEND_Output* output;
    void* to;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", type, shape, (uint32_t)rank));
    TRY(TRITONBACKEND_OutputBuffer(output, &to, size, &memory, &device));
    memcpy(to, base, size);
    return NULL;
}

static TRITONSERVER_Error* holds(TRITONSERVER_Message* message, const char* text) {
    const char* json;
    size_t length;
    TRY(TRITONSERVER_MessageSerializeToJson(message, &json, &length));
    EXPECT(strlen(json) == length);
    bool is_there = strstr(json, text) != NULL;
    TRY(TRITONSERVER_MessageDelete(message));
    if (is_there) return NULL;
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, text);
}

static TRITONSERVER_Error* check_server(TRITONSERVER_Server* server, const char* name) {
    bool is_true = false;
    TRY(TRITONSERVER_ServerIsLive(server, &is_true));
    EXPECT(is_true);
    TRY(TRITONSERVER_ServerIsReady(server, &is_true));
    EXPECT(is_true);
    TRY(TRITONSERVER_ServerModelIsReady(server, name, 1, &is_true));
    EXPECT(is_true);
    TRY(TRITONSERVER_ServerModelIsReady(server, name, 2, &is_true));
    EXPECT(!is_true);
    TRITONSERVER_Message* message;
    TRY(TRITONSERVER_ServerMetadata(server, &message));
    TRY(holds(message, "\"extensions\":["));
    TRY(TRITONSERVER_ServerModelMetadata(server, name, -1, &message));
    TRY(holds(message, "\"INPUT0\""));
    TRY(TRITONSERVER_ServerModelStatistics(server, name, -1, &message));
    TRY(holds(message, "{\"model_stats\":[{\"name\":\""));
    TRY(TRITONSERVER_ServerModelStatistics(server, "", -1, &message));
    TRY(holds(message, "\"inference_stats\":{\"success\":{\"count\":"));
    EXPECT(fails(TRITONSERVER_ServerModelStatistics(server, "unknown", -1, &message)));
    EXPECT(fails(TRITONSERVER_ServerModelStatistics(server, name, -7, &message)));
    TRY(TRITONSERVER_ServerModelIndex(server, 0, &message));
    TRY(holds(message, "\"READY\""));
    TRITONSERVER_ServerOptions* options = NULL;
    EXPECT(fails(TRITONSERVER_ServerOptionsNew(&options)) && options == NULL);
    EXPECT(fails(TRITONSERVER_ServerOptionsSetExitTimeout(options, 1)));
    EXPECT(fails(TRITONSERVER_ServerNew(&server, options)));
    EXPECT(fails(TRITONSERVER_ServerStop(server)));
    EXPECT(fails(TRITONSERVER_ServerDelete(server)));
    EXPECT(fails(TRITONSERVER_ServerPollModelRepository(server)));
    EXPECT(fails(TRITONSERVER_ServerRegisterModelRepository(server, "/tmp", NULL, 0)));
    return TRITONSERVER_ServerIsLive(server, &is_true);
}

static TRITONSERVER_Error* answer(
    TRITONBACKEND_Model* model, State* state, TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    TRITONSERVER_Server* server;
    const char* name;
    TRY(TRITONBACKEND_ModelServer(model, &server));
    TRY(TRITONBACKEND_ModelName(model, &name));
    if (first_number(request) == 0) {
        TRY(check_server(server, name));
        return repeat(request, "INPUT0", response, "OUTPUT0");
    }
    TRITONSERVER_InferenceResponse* inner = NULL;
    TRY(ask(server, state, request, &inner));
    TRITONSERVER_Error* error = give_on(inner, response);
    fails(TRITONSERVER_InferenceResponseDelete(inner));
    return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
    State* state = calloc(1, sizeof *state);
    TRY(TRITONBACKEND_ModelSetState(model, state));
    TRITONSERVER_Message* config;
    const char* json;
    size_t length;
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    const char* at = strstr(json, "\"string_value\":\"");
    if (at != NULL) {
        at += strlen("\"string_value\":\"");
        size_t size = strcspn(at, "\"");
        memcpy(state->asked, at, size < sizeof state->asked ? size : 0);
    }
    TRY(TRITONSERVER_MessageDelete(config));
    return TRITONSERVER_ResponseAllocatorNew(&state->allocator, allocate, release, NULL);
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
    State* state;
    TRY(TRITONBACKEND_ModelState(model, (void**)&state));
    fails(TRITONSERVER_ResponseAllocatorDelete(state->allocator));
    free(state);
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    TRITONBACKEND_Model* model;
    State* state;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelState(model, (void**)&state));
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Response* response;
        TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
        TRITONSERVER_Error* error = answer(model, state, requests[index], response);
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
        if (error != NULL) TRITONSERVER_ErrorDelete(error);
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
