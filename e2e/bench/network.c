/* A network of ONNX Runtime as a backend in C: the file model.onnx of version 1, one input, one output, FP32, on one thread. LIBRARY is
 * the path of ONNX Runtime. Of its interface only what is needed is declared here, by its place in the table of onnxruntime_c_api.h. */
#include <dlfcn.h>

#include "common.h"

typedef void* (*Function)(void);
typedef struct {
    const Function* (*get_api)(uint32_t version);
    const char* (*get_version)(void);
} Base;

enum { API_VERSION = 17, GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10, SET_INTRA_OP_THREADS = 24,
       SET_INTER_OP_THREADS = 25, CREATE_TENSOR_OVER = 49, CREATE_CPU_MEMORY_INFO = 69, RELEASE_STATUS = 93, RELEASE_VALUE = 96 };
enum { WARNINGS = 2, ARENA = 1, DEFAULT_MEMORY = 0, FLOAT = 1 };

static const Function* api;
static void *environment, *memory;

/* What a function of ONNX Runtime says; null is success. */
static TRITONSERVER_Error* said(void* status) {
    if (status == NULL) return NULL;
    TRITONSERVER_Error* error =
        TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, ((const char* (*)(const void*))api[GET_ERROR_MESSAGE])(status));
    ((void (*)(void*))api[RELEASE_STATUS])(status);
    return error;
}

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
    (void)backend;
    void* library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    const Base* (*base)(void) = library == NULL ? NULL : (const Base* (*)(void))dlsym(library, "OrtGetApiBase");
    api = base == NULL ? NULL : base()->get_api(API_VERSION);
    if (api == NULL) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, LIBRARY " is no ONNX Runtime");
    TRY(said(((void* (*)(int, const char*, void**))api[CREATE_ENV])(WARNINGS, "network", &environment)));
    return said(((void* (*)(int, int, void**))api[CREATE_CPU_MEMORY_INFO])(ARENA, DEFAULT_MEMORY, &memory));
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
    TRITONBACKEND_Model* model;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRITONBACKEND_ArtifactType kind;
    const char* folder;
    TRY(TRITONBACKEND_ModelRepository(model, &kind, &folder));
    char path[4096];
    snprintf(path, sizeof path, "%s/1/model.onnx", folder);
    void *options, *session;
    TRY(said(((void* (*)(void**))api[CREATE_SESSION_OPTIONS])(&options)));
    TRY(said(((void* (*)(void*, int))api[SET_INTRA_OP_THREADS])(options, 1)));
    TRY(said(((void* (*)(void*, int))api[SET_INTER_OP_THREADS])(options, 1)));
    TRY(said(((void* (*)(const void*, const char*, const void*, void**))api[CREATE_SESSION])(environment, path, options, &session)));
    return TRITONBACKEND_ModelInstanceSetState(instance, session);
}

static TRITONSERVER_Error* tensor_over(const void* bytes, uint64_t size, const int64_t* shape, size_t rank, void** tensor) {
    return said(((void* (*)(const void*, void*, size_t, const int64_t*, size_t, int, void**))api[CREATE_TENSOR_OVER])(
        memory, (void*)bytes, size, shape, rank, FLOAT, tensor));
}

static TRITONSERVER_Error* answer(void* session, TRITONBACKEND_Request* request, TRITONBACKEND_Response* response) {
    TRITONBACKEND_Input* input;
    TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
    const char* input_name;
    const int64_t* shape;
    uint32_t rank, buffers;
    uint64_t size;
    TRY(TRITONBACKEND_InputProperties(input, &input_name, NULL, &shape, &rank, &size, &buffers));
    const void* from;
    TRITONSERVER_MemoryType kind = TRITONSERVER_MEMORY_CPU;
    int64_t device = 0;
    TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &size, &kind, &device));
    const char* output_name;
    TRY(TRITONBACKEND_RequestOutputName(request, 0, &output_name));
    const int64_t answered[] = {shape[0], 1};
    TRITONBACKEND_Output* output;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, output_name, TRITONSERVER_TYPE_FP32, answered, 2));
    void* to;
    TRY(TRITONBACKEND_OutputBuffer(output, &to, shape[0] * sizeof(float), &kind, &device));
    void* values[2];
    TRY(tensor_over(from, size, shape, rank, &values[0]));
    TRY(tensor_over(to, shape[0] * sizeof(float), answered, 2, &values[1]));
    TRITONSERVER_Error* error = said(
        ((void* (*)(void*, const void*, const char* const*, const void* const*, size_t, const char* const*, size_t, void**))api[RUN])(
            session, NULL, &input_name, (const void* const*)&values[0], 1, &output_name, 1, &values[1]));
    ((void (*)(void*))api[RELEASE_VALUE])(values[0]);
    ((void (*)(void*))api[RELEASE_VALUE])(values[1]);
    return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    void* session;
    TRY(TRITONBACKEND_ModelInstanceState(instance, &session));
    uint64_t start = now_ns();
    for (uint32_t index = 0; index < count; ++index) {
        TRITONBACKEND_Response* response;
        TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
        TRITONSERVER_Error* error = answer(session, requests[index], response);
        bool is_success = error == NULL;
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
        fails(error);
        uint64_t now = now_ns();
        fails(TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[index], is_success, start, start, now, now));
    }
    uint64_t end = now_ns();
    fails(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, count, start, start, end, end));
    for (uint32_t index = 0; index < count; ++index) {
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
