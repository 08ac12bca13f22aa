"""Asks the operator's external scaler as KEDA does, and prints what it answers as JSON. The messages are made from their published names
and numbers, so that nothing of the operator's own build is used.

    ask_scaler.py ADDRESS NAMESPACE SERVER METRIC TARGET"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STRING, DOUBLE, INT64, MESSAGE, BOOL = 9, 1, 3, 11, 8


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="scaler.proto", package="externalscaler", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, label, type_name) in enumerate(fields, 1):
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return made

    entry = "ScalerMetadataEntry"
    ref = message(
        "ScaledObjectRef",
        ("name", STRING, 1, None),
        ("namespace", STRING, 1, None),
        ("scalerMetadata", MESSAGE, 3, f".externalscaler.ScaledObjectRef.{entry}"),
    )
    nested = ref.nested_type.add(name=entry)
    nested.options.map_entry = True
    nested.field.add(name="key", number=1, type=STRING, label=1)
    nested.field.add(name="value", number=2, type=STRING, label=1)
    message("IsActiveResponse", ("result", BOOL, 1, None))
    message("MetricSpec", ("metricName", STRING, 1, None), ("targetSize", INT64, 1, None), ("targetSizeFloat", DOUBLE, 1, None))
    message("GetMetricSpecResponse", ("metricSpecs", MESSAGE, 3, ".externalscaler.MetricSpec"))
    message("GetMetricsRequest", ("scaledObjectRef", MESSAGE, 1, ".externalscaler.ScaledObjectRef"), ("metricName", STRING, 1, None))
    message("MetricValue", ("metricName", STRING, 1, None), ("metricValue", INT64, 1, None), ("metricValueFloat", DOUBLE, 1, None))
    message("GetMetricsResponse", ("metricValues", MESSAGE, 3, ".externalscaler.MetricValue"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"externalscaler.{name}"))


def main():
    address, namespace, server, metric, target = sys.argv[1:]
    of = messages()
    channel = grpc.insecure_channel(address)

    def call(method, request, answer):
        stub = channel.unary_unary(
            f"/externalscaler.ExternalScaler/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=of(answer).FromString,
        )
        return stub(request, timeout=10, wait_for_ready=True)

    ref = of("ScaledObjectRef")(name=server, namespace=namespace)
    ref.scalerMetadata.update({"metric": metric, "target": target, "scalerAddress": address})
    (spec,) = call("GetMetricSpec", ref, "GetMetricSpecResponse").metricSpecs
    (value,) = call("GetMetrics", of("GetMetricsRequest")(scaledObjectRef=ref, metricName=spec.metricName), "GetMetricsResponse").metricValues
    active = call("IsActive", ref, "IsActiveResponse").result
    print(json.dumps({"metric": value.metricName, "target": spec.targetSizeFloat, "value": value.metricValueFloat, "active": active}))


main()
