/* Calls every function with nothing at all: each has to say so, and none may crash. */
#include "common.h"

#define REFUSED(call)                                                                             \
    do {                                                                                          \
        if (!fails(call)) return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "taken: " #call); \
    } while (0)

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    (void)instance, (void)requests, (void)count;
    REFUSED(TRITONBACKEND_ApiVersion(NULL, NULL));
    REFUSED(TRITONBACKEND_MemoryManagerAllocate(NULL, NULL, 0, 0, 0));
    REFUSED(TRITONBACKEND_MemoryManagerFree(NULL, NULL, 0, 0));
    REFUSED(TRITONBACKEND_InputProperties(NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_InputPropertiesForHostPolicy(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_InputBuffer(NULL, 0, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_InputBufferForHostPolicy(NULL, NULL, 0, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_InputBufferAttributes(NULL, 0, NULL, NULL));
    REFUSED(TRITONBACKEND_OutputBuffer(NULL, NULL, 0, NULL, NULL));
    REFUSED(TRITONBACKEND_OutputBufferAttributes(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestId(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestIsCancelled(NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseFactoryIsCancelled(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestCorrelationId(NULL, NULL));
    REFUSED(TRITONBACKEND_InferenceRequestTimeoutMicroseconds(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestCorrelationIdString(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestFlags(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestParameterCount(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestParameter(NULL, 0, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_RequestInputCount(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestInputName(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_RequestInput(NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_RequestInputByIndex(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_RequestOutputCount(NULL, NULL));
    REFUSED(TRITONBACKEND_RequestOutputName(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_RequestOutputBufferProperties(NULL, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_RequestRelease(NULL, 0));
    REFUSED(TRITONBACKEND_RequestTrace(NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseFactoryNew(NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseFactoryDelete(NULL));
    REFUSED(TRITONBACKEND_ResponseFactorySendFlags(NULL, 0));
    REFUSED(TRITONBACKEND_ResponseNew(NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseNewFromFactory(NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseDelete(NULL));
    REFUSED(TRITONBACKEND_ResponseSetStringParameter(NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_ResponseSetIntParameter(NULL, NULL, 0));
    REFUSED(TRITONBACKEND_ResponseSetBoolParameter(NULL, NULL, 0));
    REFUSED(TRITONBACKEND_ResponseSetDoubleParameter(NULL, NULL, 0));
    REFUSED(TRITONBACKEND_ResponseOutput(NULL, NULL, NULL, 0, NULL, 0));
    REFUSED(TRITONBACKEND_ResponseSend(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_StateNew(NULL, NULL, NULL, 0, NULL, 0));
    REFUSED(TRITONBACKEND_StateUpdate(NULL));
    REFUSED(TRITONBACKEND_StateBuffer(NULL, NULL, 0, NULL, NULL));
    REFUSED(TRITONBACKEND_StateBufferAttributes(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendName(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendConfig(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendExecutionPolicy(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendSetExecutionPolicy(NULL, 0));
    REFUSED(TRITONBACKEND_BackendArtifacts(NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_BackendMemoryManager(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendState(NULL, NULL));
    REFUSED(TRITONBACKEND_BackendSetState(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelName(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelVersion(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelRepository(NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_ModelConfig(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_ModelAutoCompleteConfig(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelSetConfig(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_ModelServer(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelBackend(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelState(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelSetState(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelReportMemoryUsage(NULL, NULL, 0));
    REFUSED(TRITONBACKEND_ModelInstanceName(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceKind(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceDeviceId(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceHostPolicy(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceIsPassive(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceProfileCount(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceProfileName(NULL, 0, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceSecondaryDeviceCount(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceSecondaryDeviceProperties(NULL, 0, NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceModel(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceState(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceSetState(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceReportMemoryUsage(NULL, NULL, 0));
    REFUSED(TRITONBACKEND_ModelInstanceReportStatistics(NULL, NULL, 0, 0, 0, 0, 0));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsNew(NULL));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsDelete(NULL));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(NULL, 0));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(NULL, 0));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(NULL, 0));
    REFUSED(TRITONBACKEND_ModelInstanceResponseStatisticsSetError(NULL, NULL));
    REFUSED(TRITONBACKEND_ModelInstanceReportResponseStatistics(NULL));
    REFUSED(TRITONBACKEND_ModelInstanceReportBatchStatistics(NULL, 0, 0, 0, 0, 0));
    REFUSED(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(NULL, 0, 0, NULL, 0));
    REFUSED(TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(NULL, 0));
    REFUSED(TRITONBACKEND_InferenceResponseOutputByName(NULL, NULL, NULL, NULL, NULL));
    REFUSED(TRITONBACKEND_InferenceResponseOutput(NULL, 0, NULL, NULL, NULL, NULL));
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNKNOWN, "all refused");
}
