# quantsam with its engines, on the processor. Data and weights are mounted:
#   docker build -t quantsam .
#   mkdir -p results && docker run --rm --user "$(id -u)" -v "$PWD/data:/data:ro" -v "$PWD/results:/results" quantsam evaluate --scheme int8 --data coco
FROM python:3.11-slim
COPY pyproject.toml constraints.txt README.md LICENSE /quantsam/
COPY src /quantsam/src
RUN PIP_CONSTRAINT=/quantsam/constraints.txt pip install --no-cache-dir \
    --extra-index-url https://download.pytorch.org/whl/cpu '/quantsam[quantize,onnxruntime,openvino,search,ray,report,app]'
ENV QUANTSAM_DATA=/data QUANTSAM_STORE=/results/results.sqlite
# any user may write here, also without a volume: docker run --user 1000
RUN mkdir -p /results && chmod 1777 /results
WORKDIR /results
ENTRYPOINT ["quantsam"]
CMD ["--help"]
