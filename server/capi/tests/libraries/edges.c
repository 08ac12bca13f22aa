/* Asks for what lies at the edge of the headers, or just behind it, and checks what comes of it; the first surprise is the error of
 * the requests, which are otherwise answered with INPUT0. */
#include "common.h"

#define EXPECT(condition)                                                                                  \
    do {                                                                                                   \
        if (!(condition)) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "not so: " #condition); \
    } while (0)

static TRITONSERVER_Error* inputs(TRITONBACKEND_Request* request) {
    TRITONBACKEND_Input* input;
    uint64_t size;
    uint32_t buffers;
    TRY(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
    TRY(TRITONBACKEND_InputProperties(input, NULL, NULL, NULL, NULL, &size, &buffers));
    EXPECT(buffers == (size == 0 ? 0 : 1));
    /* behind the last buffer there is nothing, and that is no error */
    for (uint32_t index = buffers; index < 3; ++index) {
        const void* from = request;
        uint64_t length = 7;
        TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_GPU;
        int64_t device = 7;
        TRITONSERVER_BufferAttributes* attributes;
        TRY(TRITONBACKEND_InputBuffer(input, index, &from, &length, &memory, &device));
        EXPECT(from == NULL && length == 0 && memory == TRITONSERVER_MEMORY_CPU && device == 0);
        size_t byte_size = 7;
        TRY(TRITONBACKEND_InputBufferAttributes(input, index, &from, &attributes));
        TRY(TRITONSERVER_BufferAttributesByteSize(attributes, &byte_size));
        EXPECT(from == NULL && byte_size == 0);
    }
    EXPECT(fails(TRITONBACKEND_RequestInput(request, "", &input)) && input == NULL);
    EXPECT(fails(TRITONBACKEND_RequestInputByIndex(request, UINT32_MAX, &input)) && input == NULL);
    EXPECT(fails(TRITONBACKEND_RequestInputByIndex(request, 1, &input)) && input == NULL);
    return NULL;
}

static TRITONSERVER_Error* outputs(TRITONBACKEND_Request* request) {
    static char long_name[1 << 20];
    memset(long_name, 'x', sizeof long_name - 1);
    TRITONBACKEND_Response* response;
    TRITONBACKEND_Output* output;
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    const int64_t overflow[] = {INT64_MAX, INT64_MAX, 3}, negative[] = {-1}, one[] = {1};
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &output, long_name, TRITONSERVER_TYPE_INT32, one, 1)));
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", 77, one, 1)) && output == NULL);
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INVALID, one, 1)));
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, NULL, 1)));
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, one, UINT32_MAX)));
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, overflow, 3));
    TRITONBACKEND_Output* again;
    EXPECT(fails(TRITONBACKEND_ResponseOutput(response, &again, "OUTPUT0", TRITONSERVER_TYPE_INT32, one, 1)));
    void* to = request;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_GPU;
    int64_t device = 3;
    EXPECT(fails(TRITONBACKEND_OutputBuffer(output, &to, UINT64_MAX, &memory, &device)) && to == NULL);
    EXPECT(fails(TRITONBACKEND_OutputBuffer(output, &to, (uint64_t)1 << 62, &memory, &device)) && to == NULL);
    TRY(TRITONBACKEND_OutputBuffer(output, &to, 4, &memory, &device));
    EXPECT(to != NULL && memory == TRITONSERVER_MEMORY_CPU && device == 0);
    EXPECT(fails(TRITONBACKEND_OutputBuffer(output, &to, 4, &memory, &device)));
    TRY(TRITONBACKEND_ResponseSetStringParameter(response, long_name, long_name));
    TRY(TRITONBACKEND_ResponseDelete(response));
    EXPECT(fails(TRITONBACKEND_ResponseDelete(response)));
    EXPECT(fails(TRITONBACKEND_OutputBuffer(output, &to, 4, &memory, &device)));
    TRITONSERVER_BufferAttributes* attributes;
    EXPECT(fails(TRITONBACKEND_OutputBufferAttributes(output, &attributes)));
    /* a shape that is none is the error of the request that it answers: of one that is made for it, as this one is not */
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, negative, 1));
    return TRITONBACKEND_ResponseDelete(response);
}

static TRITONSERVER_Error* objects(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request) {
    TRITONBACKEND_Model* model;
    TRITONBACKEND_Backend* backend;
    TRITONBACKEND_MemoryManager* manager;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelBackend(model, &backend));
    TRY(TRITONBACKEND_BackendMemoryManager(backend, &manager));
    void* block;
    EXPECT(fails(TRITONBACKEND_MemoryManagerAllocate(manager, &block, 9, 0, 16)));
    EXPECT(fails(TRITONBACKEND_MemoryManagerAllocate(manager, &block, TRITONSERVER_MEMORY_CPU, 0, UINT64_MAX)));
    TRY(TRITONBACKEND_MemoryManagerAllocate(manager, &block, TRITONSERVER_MEMORY_CPU, 0, 0));
    EXPECT(block != NULL);
    TRY(TRITONBACKEND_MemoryManagerFree(manager, block, TRITONSERVER_MEMORY_CPU, 0));
    EXPECT(fails(TRITONBACKEND_MemoryManagerFree(manager, block, TRITONSERVER_MEMORY_CPU, 0)));
    TRY(TRITONBACKEND_MemoryManagerFree(manager, NULL, TRITONSERVER_MEMORY_CPU, 0));
    /* handles of other kinds, deleted twice, and of the parts of others */
    TRITONBACKEND_ResponseFactory* factory;
    TRY(TRITONBACKEND_ResponseFactoryNew(&factory, request));
    EXPECT(fails(TRITONBACKEND_RequestRelease((TRITONBACKEND_Request*)factory, TRITONSERVER_REQUEST_RELEASE_ALL)));
    EXPECT(fails(TRITONBACKEND_ResponseDelete((TRITONBACKEND_Response*)factory)));
    EXPECT(fails(TRITONSERVER_MessageDelete((TRITONSERVER_Message*)factory)));
    EXPECT(fails(TRITONBACKEND_RequestRelease((TRITONBACKEND_Request*)instance, TRITONSERVER_REQUEST_RELEASE_ALL)));
    EXPECT(fails(TRITONBACKEND_ModelInstanceModel((TRITONBACKEND_ModelInstance*)manager, &model)));
    TRY(TRITONBACKEND_ResponseFactorySendFlags(factory, 0));
    TRY(TRITONBACKEND_ResponseFactoryDelete(factory));
    EXPECT(fails(TRITONBACKEND_ResponseFactoryDelete(factory)));
    EXPECT(fails(TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL)));
    TRITONBACKEND_Response* response;
    EXPECT(fails(TRITONBACKEND_ResponseNewFromFactory(&response, factory)));
    TRITONSERVER_Message* message;
    EXPECT(fails(TRITONSERVER_MessageNewFromSerializedJson(&message, "{", 1)));
    EXPECT(fails(TRITONBACKEND_ModelSetConfig(model, 1, NULL)));
    EXPECT(fails(TRITONBACKEND_ModelConfig(model, 2, &message)));
    const char* text;
    EXPECT(fails(TRITONBACKEND_ModelInstanceProfileName(instance, UINT32_MAX, &text)));
    TRITONBACKEND_State* state;
    const int64_t one[] = {1};
    EXPECT(fails(TRITONBACKEND_StateNew(&state, request, "none", TRITONSERVER_TYPE_INT32, one, 1)));
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    for (uint32_t index = 0; index < count; ++index) {
        TRITONSERVER_Error* error = inputs(requests[index]);
        if (error == NULL) error = outputs(requests[index]);
        if (error == NULL) error = objects(instance, requests[index]);
        TRITONBACKEND_Response* response;
        TRY(TRITONBACKEND_ResponseNew(&response, requests[index]));
        if (error == NULL) error = repeat(requests[index], "INPUT0", response, "OUTPUT0");
        fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
        if (error != NULL) TRITONSERVER_ErrorDelete(error);
        fails(TRITONBACKEND_RequestRelease(requests[index], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
