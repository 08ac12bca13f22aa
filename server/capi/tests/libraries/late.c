/* Takes requests, returns from Execute at once, and answers later from a thread of its own: OUTPUT0 is INPUT0. For a decoupled
 * model, INPUT0[0] says how many responses a request gets; the request is released before the first of them. */
#include "common.h"

typedef struct {
    TRITONBACKEND_ModelInstance* instance;
    TRITONBACKEND_Request* request;
    bool is_decoupled;
} Job;

static void report(Job* job, TRITONBACKEND_ResponseFactory* factory, uint64_t start) {
    TRITONBACKEND_ModelInstanceResponseStatistics* statistics;
    uint64_t now = now_ns();
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsNew(&statistics));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsSetModelInstance(statistics, job->instance));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseFactory(statistics, factory));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseStart(statistics, start));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsSetComputeOutputStart(statistics, now));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsSetResponseEnd(statistics, now));
    fails(TRITONBACKEND_ModelInstanceReportResponseStatistics(statistics));
    fails(TRITONBACKEND_ModelInstanceResponseStatisticsDelete(statistics));
}

static void answer_over_time(Job* job) {
    TRITONBACKEND_ResponseFactory* factory;
    int32_t count = first_number(job->request);
    fails(TRITONBACKEND_ResponseFactoryNew(&factory, job->request));
    uint64_t start = now_ns();
    fails(TRITONBACKEND_ModelInstanceReportStatistics(job->instance, job->request, true, start, start, start, start));
    fails(TRITONBACKEND_RequestRelease(job->request, TRITONSERVER_REQUEST_RELEASE_ALL));
    for (int32_t value = 0; value < count; ++value) {
        bool is_cancelled = false;
        fails(TRITONBACKEND_ResponseFactoryIsCancelled(factory, &is_cancelled));
        if (is_cancelled || fails(send_value(factory, value))) break;
        report(job, factory, start);
    }
    fails(TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
    fails(TRITONBACKEND_ResponseFactoryDelete(factory));
}

static void answer_once(Job* job) {
    TRITONBACKEND_Response* response;
    fails(TRITONBACKEND_ResponseNew(&response, job->request));
    TRITONSERVER_Error* error = repeat(job->request, "INPUT0", response, "OUTPUT0");
    fails(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    fails(error);
    usleep(20000); /* the request is released long after its answer */
    fails(TRITONBACKEND_RequestRelease(job->request, TRITONSERVER_REQUEST_RELEASE_ALL));
}

static void* run(void* argument) {
    Job* job = argument;
    usleep(20000);
    job->is_decoupled ? answer_over_time(job) : answer_once(job);
    free(job);
    return NULL;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
    TRITONBACKEND_Model* model;
    TRITONSERVER_Message* config;
    const char* json;
    size_t length;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &length));
    bool is_decoupled = strstr(json, "\"decoupled\":true") != NULL;
    TRY(TRITONSERVER_MessageDelete(config));
    for (uint32_t index = 0; index < count; ++index) {
        Job* job = malloc(sizeof *job);
        *job = (Job){instance, requests[index], is_decoupled};
        pthread_t thread;
        pthread_create(&thread, NULL, run, job);
        pthread_detach(thread);
    }
    return NULL;
}
