# What the images of deploy/image/build hold besides the server and ONNX Runtime: sourced by it. Each function gathers one runtime below
# $context, from PyPI or from Debian.

TENSORFLOW=tensorflow-cpu==2.21.0
OPENVINO=openvino==2026.4.1
# LibTorch 1.13, and the Python that runs PyTorch models written in Python.
PYTORCH_PACKAGES=(python3 python3-numpy python3-torch libtorch1.13)

# wheels TARGET ARGUMENT...: installs packages for the Python 3.11 of the images, without compiling anything.
wheels() {
    local target=$1 platforms=() platform
    shift
    for platform in manylinux_2_36 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux2014; do
        platforms+=(--platform "${platform}_$(uname -m)")
    done
    .venv/bin/pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: --implementation cp --python-version 3.11 \
        "${platforms[@]}" --target "$target" "$@"
}

# The packages of Python models, and a virtual environment for them that finds them beside the image's own interpreter.
collect_python() {
    local environment=$context/python
    local packages=$environment/lib/python3.11/site-packages
    mkdir -p "$environment/bin"
    # numpy as everywhere else in this project, and whatever the models of this image want.
    grep '^numpy==' deploy/requirements.txt >"$context/requirements.txt"
    [ -z "$python_requirements" ] || sed -i '$a -r '"$python_requirements" "$context/requirements.txt"
    say "collecting Python packages"
    wheels "$packages" -r "$context/requirements.txt"
    # What a model never imports: the tests of numpy, and what builds extensions with it.
    rm -rf "$packages/bin" "$packages"/numpy/{f2py,_pyinstaller} "$packages"/numpy/tests "$packages"/numpy/*/tests "$packages"/numpy/*/*/tests "$packages"/numpy/*/lib/*.a
    ln -s /usr/bin/python3.11 "$environment/bin/python3"
    ln -s python3 "$environment/bin/python"
    printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' >"$environment/pyvenv.cfg"
}

# The shim for the LibTorch of Debian's packages, and links that those packages would make when they are configured.
collect_pytorch() {
    local links=$context/pytorch/links/usr/lib/$(uname -m)-linux-gnu name
    say "compiling the shim of LibTorch"
    deploy/shims/build torch "$context/pytorch/opt/pytorch/lib/libtriton_torch_shim.so"
    mkdir -p "$links"
    for name in blas lapack; do ln -sf "$name/lib$name.so.3" "$links/lib$name.so.3"; done
}

# collect_tensorflow TARGET
collect_tensorflow() {
    local packages=$context/wheels-of-tensorflow
    say "collecting TensorFlow"
    wheels "$packages" --no-deps "$TENSORFLOW"
    mkdir -p "$1/lib"
    mv "$packages"/tensorflow/libtensorflow_{cc,framework}.so.2 "$1/lib/"
    licences "$packages" "$1"
}

# collect_openvino TARGET: its core and C interface, and the plugins and front ends for models on the CPU.
collect_openvino() {
    local packages=$context/wheels-of-openvino
    say "collecting OpenVINO"
    wheels "$packages" --no-deps "$OPENVINO"
    mkdir -p "$1/lib"
    mv "$packages"/openvino/libs/lib{openvino{,_c,_intel_cpu_plugin,_auto_plugin,_auto_batch_plugin,_hetero_plugin,_ir_frontend,_onnx_frontend},tbb,tbbmalloc,hwloc}.so* "$1/lib/"
    licences "$packages" "$1"
}

# licences PACKAGES TARGET: goes on without the packages.
licences() {
    local file
    while read -r file; do cp "$file" "$2/"; done < <(find "$1" -type f \( -path '*.dist-info/*licen[cs]*' -o -name 'THIRD_PARTY_NOTICES*' \))
    rm -rf "$1"
}
