// A library with an operation of its own, as models bring them: every number times a factor. Compiled by e2e/runtimes/tensorflow.

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

using namespace tensorflow;

REGISTER_OP("E2eScaled").Input("x: float").Attr("factor: float").Output("y: float").SetShapeFn([](shape_inference::InferenceContext *context) {
    context->set_output(0, context->input(0));
    return absl::OkStatus();
});

class Scaled : public OpKernel {
  public:
    explicit Scaled(OpKernelConstruction *construction) : OpKernel(construction)
    {
        OP_REQUIRES_OK(construction, construction->GetAttr("factor", &factor));
    }

    void Compute(OpKernelContext *context) override
    {
        const Tensor &x = context->input(0);
        Tensor *y = nullptr;
        OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
        const auto from = x.flat<float>();
        auto to = y->flat<float>();
        for (int64_t index = 0; index < from.size(); index++) {
            to(index) = from(index) * factor;
        }
    }

  private:
    float factor = 1;
};

REGISTER_KERNEL_BUILDER(Name("E2eScaled").Device(DEVICE_CPU), Scaled);
