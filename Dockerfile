# docker build -t artstore . && docker run -p 8010:8010 -v artstore:/data artstore
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/artstore
# Third-party packages first, in a layer of their own: a change of our code does not fetch them again.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; x = p['optional-dependencies']; print(*p['dependencies'], *(d for e in ('falcon', 'fsspec', 'postgres', 's3') for d in x[e] if not d.startswith('artstore[')), sep='\n')" > requirements.txt \
    && /opt/artstore/bin/pip install -r requirements.txt
COPY README.md LICENSE ./
COPY kernel kernel
COPY plugins plugins
COPY adapters adapters
RUN /opt/artstore/bin/pip install --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin artstore \
    && install -d -m 0750 -o artstore -g artstore /data
COPY --from=build /opt/artstore /opt/artstore
ENV PATH=/opt/artstore/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ARTSTORE_HOME=/data \
    ARTSTORE_SERVER__HOST=0.0.0.0
USER artstore
VOLUME /data
EXPOSE 8010
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=30s --retries=3 CMD ["artstore", "healthcheck"]
ENTRYPOINT ["artstore"]
CMD ["serve"]
