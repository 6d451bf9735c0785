# The HTTP server, without PyTorch: docker build -t tinydigits . && docker run --rm -p 8000:8000 tinydigits
# Further options come last: docker run … tinydigits --host 0.0.0.0 --allow-remote --workers 4
FROM python:3.11-slim AS build
WORKDIR /source
COPY constraints.txt ./
# What the server takes at run time, which is less than the whole package does.
RUN pip install --no-cache-dir --prefix /install --constraint constraints.txt \
    numpy pillow safetensors msgspec rich shtab onnx onnxruntime fastapi uvicorn httptools python-multipart prometheus-client
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --prefix /install --no-deps .

FROM python:3.11-slim
COPY --from=build /install /usr/local
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["tinydigits", "serve"]
CMD ["--host", "0.0.0.0", "--allow-remote"]
